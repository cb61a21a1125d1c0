package store_test

import (
	"testing"
	"time"

	"github.com/rumi-ai/rumi/libs/store"
	"github.com/rumi-ai/rumi/libs/store/storetest"
)

// No commit of another process is ever missed, and a database that nobody writes to is left alone.
func TestChanges(t *testing.T) {
	storetest.Run(t, migrations, func(t *testing.T, open func() *store.DB) {
		mine, other := open(), open()
		changes := mine.Changes()
		if !changes.Pending() {
			t.Error("the first time there is nothing to read")
		}
		for i := range int64(200) {
			if err := other.Tx(t.Context(), func(tx *store.Tx) error { return set(tx, "n", i) }); err != nil {
				t.Fatal(err)
			}
			if !changes.Pending() {
				t.Fatalf("commit %d was not seen", i)
			}
			if n := mustGet(t, mine, "n"); n != i {
				t.Fatalf("read %d, want %d", n, i)
			}
		}
		changes.Recheck()
		if !changes.Pending() {
			t.Error("asked again, and it says no")
		}
		time.Sleep(200 * time.Millisecond) // file times aren't virtual
		changes.Pending()
		if t.Name() == "TestChanges/sqlite" && changes.Pending() {
			t.Error("nobody wrote, and it says yes")
		}
	})
}
