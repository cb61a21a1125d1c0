package gateway

import (
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/route"
)

// FindAudit asks the audit log. See docs/api.md, "Ask the audit log".
var FindAudit = route.New[AuditRequest, AuditPage]("GET", "/api/audit", Service, route.Class{}, access.ReadAudit,
	"Find entries of the audit log, the newest first").
	Narrows().
	Fails("audit_unavailable", "invalid_cursor", "value_too_long").
	Remarks("An entry is answered as it is in the file. Without `pack_id`, a token that is for some packs only finds the entries of these.")

// AuditRequest says which entries are wanted: those that fit all the parameters.
type AuditRequest struct {
	Category  string `json:"-" query:"category"`                               // one or several, with commas between them: approval,permission
	Action    string `json:"-" query:"action"`                                 // one or several, with commas between them
	PackID    string `json:"-" query:"pack_id"`                                // the entry's owner_pack
	Actor     string `json:"-" query:"actor"`                                  // whose decision it is
	Success   string `json:"-" query:"success"`                                // true or false
	Since     string `json:"-" query:"since"`                                  // RFC 3339, a day, or how long ago: 8h, 90m, 7d. Entries from then on
	Until     string `json:"-" query:"until"`                                  // likewise: entries before that
	RequestID string `json:"-" query:"request_id"`                             // of one request, through all services
	TraceID   string `json:"-" query:"trace_id"`                               // of one trace
	Q         string `json:"-" query:"q"`                                      // a text anywhere in the entry but in ts, request_id and trace_id; upper and lower case alike
	Limit     int    `json:"-" query:"limit" api:"min=0,max=1000,default=100"` // entries; 0 for the default, 100
	Cursor    string `json:"-" query:"cursor"`                                 // next of the answer before, with the same parameters otherwise
}

// AuditPage has the entries that were found.
type AuditPage struct {
	Entries  []jsontext.Value `json:"entries"`  // as they are in the files, the newest first
	Next     string           `json:"next"`     // the cursor to go on with; "" where there is nothing left
	Complete bool             `json:"complete"` // false where the time for one call was over: there may be more entries before next. Go on with it
	Scanned  int64            `json:"scanned"`  // lines that were read for this answer
}
