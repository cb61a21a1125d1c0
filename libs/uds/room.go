package uds

import (
	"context"

	"golang.org/x/sync/semaphore"
)

// Room is what the answer to a connection's request takes of Limits.Answers, from before it is made until it was sent. Without it a
// client that reads nothing would have any number of answers wait for it.
type Room struct {
	of    *semaphore.Weighted
	all   int64 // of which every Room is a part
	taken int64
}

// RoomOf is the room of the connection whose request a Handler was given ctx with; nil, which takes nothing, where ctx is not from
// there.
func RoomOf(ctx context.Context) *Room {
	if c, ok := ctx.Value(connKey{}).(*conn); ok {
		return &c.room
	}
	return nil
}

// Take makes n bytes, or all there are if these are fewer, of what it took before, if that is less. For them it waits, in turn with
// the other connections of the socket, until ctx ends: then it has taken nothing, and the error is ctx's. One goroutine may use a Room
// at a time, until the handler has answered.
func (r *Room) Take(ctx context.Context, n int) error {
	if r == nil {
		return nil
	}
	want := min(int64(n), r.all)
	if want <= r.taken || r.of.TryAcquire(want-r.taken) {
		r.taken = max(want, r.taken)
		return nil
	}
	// What is held while more is waited for, others would wait for in vain.
	r.drop()
	if err := r.of.Acquire(ctx, want); err != nil {
		return err
	}
	r.taken = want
	return nil
}

// Keep gives back what was taken beyond n bytes.
func (r *Room) Keep(n int) {
	if r != nil && int64(n) < r.taken {
		r.of.Release(r.taken - int64(n))
		r.taken = int64(n)
	}
}

func (r *Room) drop() {
	if r.taken > 0 {
		r.of.Release(r.taken)
		r.taken = 0
	}
}
