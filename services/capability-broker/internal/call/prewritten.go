package call

import (
	"context"

	"github.com/rumi-ai/rumi/libs/audit"
)

// prewritten is the audit entry of a call's success, written before the call has succeeded; err is why it couldn't be.
type prewritten struct{ err error }

// prewrite writes the entry of a success while another service carries the call out. For secrets.get the sync of the audit log is more
// than half of the whole time, so the two run side by side.
//
// The order that matters is kept: the caller learns nothing before the entry is on the disk, since do waits for both. A crash in between
// leaves an entry of a success that didn't happen. Where the call fails after all, write adds the entry of the failure with the same
// request id: the log then says too much, never too little.
func (k socket) prewrite(ctx context.Context, rec *record) {
	rec.prewritten = &prewritten{k.Audit.Write(ctx, audit.Entry{Category: audit.Permission, Action: rec.action, Success: true, OwnerPack: k.principal, Details: rec.details})}
}
