package call

import (
	"context"

	"github.com/rumi-ai/rumi/libs/audit"
)

// ahead is the entry of a success that was written before the call had one.
type ahead struct{ err error }

// expect writes the entry of a success while others carry the call out: the disk is more than half of what secrets.get
// takes. The caller learns nothing before the entry is there. Where the call fails after all the log gets that, too,
// with the same request id: it then says too much, never too little.
func (k socket) expect(ctx context.Context, rec *record) {
	rec.ahead = &ahead{k.Audit.Write(ctx, audit.Entry{Category: audit.Permission, Action: rec.action, Success: true, OwnerPack: k.principal, Details: rec.details})}
}
