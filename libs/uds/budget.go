package uds

import "context"

// Budget is the memory that the answer to a connection's request may take, of the Limits.Answers bytes that all connections of a
// socket share. It is reserved before the answer is made and released when it was sent. Without it a client that sends
// requests on many connections and reads no answer would have all these answers wait in memory.
type Budget struct {
	pool     *budget // shared by the socket's connections
	limit    int64   // size of pool
	reserved int64   // of pool, by this connection
}

// BudgetOf is the budget of the connection whose request a Handler got with ctx. Where ctx is not from a Handler it is nil, and
// a nil *Budget reserves nothing and never waits.
func BudgetOf(ctx context.Context) *Budget {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		return &c.budget
	}
	return nil
}

// Reserve raises the reservation to n bytes, capped at the socket's whole budget; it never lowers it. It blocks, first come first
// served among the socket's connections, until the budget allows it. If ctx ends first, the reservation is 0 and ctx's error is
// returned. One goroutine at a time may use a Budget, until the handler has answered.
func (b *Budget) Reserve(ctx context.Context, n int) error {
	if b == nil {
		return nil
	}
	want := min(int64(n), b.limit)
	if want <= b.reserved || b.pool.TryAcquire(want-b.reserved) {
		b.reserved = max(want, b.reserved)
		return nil
	}
	// The deadlock: two connections that each have half of the budget and wait for more would wait for each other. So a
	// connection that has to wait releases first what it has, and waits for all of it.
	b.release()
	if err := b.pool.Acquire(ctx, want); err != nil {
		return err
	}
	b.reserved = want
	return nil
}

// Shrink releases what is reserved beyond n bytes.
func (b *Budget) Shrink(n int) {
	if b != nil && int64(n) < b.reserved {
		b.pool.Release(b.reserved - int64(n))
		b.reserved = int64(n)
	}
}

// release releases all that is reserved. The server does it when the answer was sent.
func (b *Budget) release() {
	if b.reserved > 0 {
		b.pool.Release(b.reserved)
		b.reserved = 0
	}
}
