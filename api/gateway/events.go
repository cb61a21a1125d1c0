package gateway

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/route"
)

// FollowEvents is the endpoint of the events. See docs/events.md.
var FollowEvents = route.New[EventsRequest, route.Stream]("GET", "/api/events", Service, route.Events, access.ReadAudit,
	"Follow the audit log as it is written").
	Narrows().
	Fails("audit_unavailable", "invalid_cursor", "too_many_streams", "value_too_long").
	Follows(Event{}).
	Remarks("Without `cursor` or `since` the stream begins now. The header `Last-Event-ID`, which browsers send when they connect again, counts before `cursor`.")

// EventsRequest says which entries are wanted: those that fit all the parameters.
type EventsRequest struct {
	Cursor    string `json:"-" query:"cursor"`     // the id of the last event that was received: the stream goes on after it
	Category  string `json:"-" query:"category"`   // one or several, with commas between them: approval,permission
	Action    string `json:"-" query:"action"`     // one or several, with commas between them
	PackID    string `json:"-" query:"pack_id"`    // the entry's owner_pack
	Actor     string `json:"-" query:"actor"`      // whose decision it is
	Success   string `json:"-" query:"success"`    // true or false
	Since     string `json:"-" query:"since"`      // RFC 3339, a day, or how long ago: entries from then on. Without a cursor the stream begins there
	Until     string `json:"-" query:"until"`      // likewise: entries before that
	RequestID string `json:"-" query:"request_id"` // of one request, through all services
	TraceID   string `json:"-" query:"trace_id"`   // of one trace
	Q         string `json:"-" query:"q"`          // a text anywhere in the entry but in ts, request_id and trace_id
}

// Event is an entry of the audit log, as it is in the file. The event's id is the cursor after it, and its name the category.
//
// An event with the name gap is no entry of the log: the action events_missing says since when entries are missing that the log has no more.
type Event struct {
	TS              time.Time      `json:"ts"`
	Category        string         `json:"category"`
	Severity        string         `json:"severity" api:"enum=info|warning|error|critical"`
	Action          string         `json:"action"`
	Success         bool           `json:"success"`
	OwnerPack       string         `json:"owner_pack,omitzero"`       // the pack that it is about
	Phase           string         `json:"phase,omitzero"`            // begin, progress or end; left out where a call leaves one entry
	Details         jsontext.Value `json:"details"`                   // an object; what is in it depends on the action
	Error           string         `json:"error,omitzero"`            // what failed
	RejectionReason string         `json:"rejection_reason,omitzero"` // why it was denied
	RequestID       string         `json:"request_id,omitzero"`
	TraceID         string         `json:"trace_id,omitzero"`
	Actor           string         `json:"actor"`
	Service         string         `json:"service"`

	ID   string `json:"-"` // the cursor after the event
	Name string `json:"-"` // the category, or gap
}

// Label keeps what stands beside the data.
func (e *Event) Label(id, name string) { e.ID, e.Name = id, name }
