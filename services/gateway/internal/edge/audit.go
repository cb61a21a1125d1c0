package edge

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/auditfile"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/services/gateway/internal/auditquery"
	"github.com/rumi-ai/rumi/services/gateway/internal/principal"
)

// findAudit answers api.FindAudit: with what the caller's scopes cover.
func (e *Edge) findAudit(ctx context.Context, req api.AuditRequest) (api.AuditPage, error) {
	question, err := questionOf(req)
	if err != nil {
		return api.AuditPage{}, err
	}
	if packs, all := principal.Of(ctx).Scopes.Packs(access.ReadAudit); !all {
		question.Packs = packs
	}
	answer, err := e.cfg.AuditLog.Ask(ctx, question)
	if err != nil {
		return api.AuditPage{}, fault.Unavailable("The audit log can't be read").With("audit_unavailable").Because(err)
	}
	page := api.AuditPage{Entries: answer.Entries, Complete: answer.Complete, Scanned: answer.Scanned}
	if page.Entries == nil {
		page.Entries = []jsontext.Value{}
	}
	if answer.Next != nil {
		page.Next = answer.Next.String()
	}
	return page, nil
}

func questionOf(req api.AuditRequest) (q auditquery.Question, err error) {
	q.Filter, err = auditfile.Query{
		Category: req.Category, Action: req.Action, PackID: req.PackID, Actor: req.Actor, Success: req.Success, Since: req.Since, Until: req.Until,
		RequestID: req.RequestID, TraceID: req.TraceID, Q: req.Q,
	}.Filter()
	if err != nil {
		return q, err
	}
	if q.Limit = req.Limit; q.Limit == 0 {
		q.Limit = auditquery.DefaultLimit
	}
	if q.Limit < 1 || q.Limit > auditquery.MaxLimit {
		return q, fault.InvalidField("limit", "a number from 1 to 1000")
	}
	if req.Cursor == "" {
		return q, nil
	}
	cursor, err := auditfile.ParseCursor(req.Cursor, auditfile.Back)
	if err != nil {
		return q, fault.Invalid("Invalid cursor: %v", err).With("invalid_cursor")
	}
	q.Cursor = &cursor
	return q, nil
}
