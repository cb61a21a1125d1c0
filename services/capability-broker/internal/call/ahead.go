package call

import (
	"context"
	"maps"

	"github.com/rumi-ai/rumi/libs/audit"
)

// expect begins to write the entry of a success while the call is carried out: the disk is half of what secrets.get
// takes. The caller still learns nothing before the entry is there. Where the call fails after all the log gets that,
// too, with the same request id: it then says too much, never too little.
func (k socket) expect(ctx context.Context, rec *record) {
	e := audit.Entry{Category: audit.Permission, Action: rec.action, Success: true, OwnerPack: k.principal, Details: maps.Clone(rec.details)}
	written := make(chan error, 1)
	rec.ahead = written
	go func() { written <- k.Audit.Write(ctx, e) }()
}
