// Package gateway declares the endpoints that the gateway answers itself: the health of all services, and views of what several services know.
package gateway

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/confirm"
	"github.com/rumi-ai/rumi/libs/diskusage"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/policy"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
)

// Service is the gateway's name.
const Service = roster.Gateway

// The endpoints. They have bounds of their own instead of a class.
var (
	GetHealth = route.New[struct{}, Health]("GET", "/api/health", Service, route.Class{}, access.ReadHealth,
		"Show which services are ready, and why others are not")
	ListPending = route.New[struct{}, Pending]("GET", "/api/pending", Service, route.Class{}, access.ReadPending,
		"List everything that waits for a person")
	GetStorage = route.New[struct{}, Storage]("GET", "/api/storage", Service, route.Class{}, access.ReadStorage,
		"Show what takes disk space, and how to remove it")
	GetPack = route.New[PackRequest, Pack]("GET", "/api/packs/{pack_id}", Service, route.Class{}, access.ReadPacks,
		"Show all that is known about a pack").
		Fails("pack_not_found", "service_unavailable")

	GetMetrics = route.New[struct{}, route.Stream]("GET", "/api/metrics", Service, route.Class{}, access.ReadMetrics,
		"Read the metrics of all services").
		Fails("service_unavailable").
		AnswersText("text/plain", "application/openmetrics-text").
		Remarks("In Prometheus' text format, or in OpenMetrics with exemplars for a client whose Accept prefers it. Each sample has the label `service`. A service that doesn't answer has `rumi_up` 0 and nothing else.")

	// Routes are all of them.
	Routes = route.NewTable(GetHealth, GetMetrics, ListPending, GetStorage, GetPack, ListTokens, CreateToken, Self, RevokeToken, RotateToken, GetPolicy, CheckPolicy, FindAudit, FollowEvents)
)

// Welcome is the data at "/": what somebody finds who has only the address.
type Welcome struct {
	Name string `json:"name"`
	Use  string `json:"use"`
	Docs string `json:"docs"`
}

// Alive is the data at "/healthz".
type Alive struct {
	Status string `json:"status"` // "ok"
}

// PackRequest names a pack.
type PackRequest struct {
	PackID string `json:"-" path:"pack_id"`
}

// Health says which services are ready.
type Health struct {
	Status   string               `json:"status" api:"enum=ok|degraded"` // ok, or degraded where a service isn't ready
	Services map[string]Readiness `json:"services"`
	Backups  Backups              `json:"backups"`   // they don't change Status: an old backup stops nothing
	Seals    Seals                `json:"audit_log"` // nor do these
}

// Seals says how the sealing of the audit log is.
type Seals struct {
	State    string `json:"state"`              // ok; late where the sealer doesn't run, failed where it can't seal, changed where sealed lines were changed
	Detail   string `json:"detail"`             // what is wrong; "" where nothing is
	Fix      string `json:"fix"`                // what the operator can do about it
	Records  uint64 `json:"records"`            // signed ones
	SealedAt string `json:"sealed_at,omitzero"` // when the sealer has made its last pass, RFC 3339
}

// Backups says how the scheduled backups are.
type Backups struct {
	State    string   `json:"state"`              // ok, late, failed; off where they aren't scheduled
	Detail   string   `json:"detail"`             // what is wrong; "" where nothing is
	Fix      string   `json:"fix"`                // what the operator can do about it
	Newest   string   `json:"newest,omitzero"`    // the name of the newest verified one
	NewestAt string   `json:"newest_at,omitzero"` // when it was taken, RFC 3339
	Size     int64    `json:"size_bytes,omitzero"`
	Problems []string `json:"problems,omitempty"` // what doesn't fit in the last one
}

// Readiness is that of one service.
type Readiness struct {
	Ready   bool    `json:"ready"`          // it answers, and every check is ok
	Error   string  `json:"error,omitzero"` // why it isn't
	Version string  `json:"version"`        // "" where it does not answer, as the next two
	Uptime  float64 `json:"uptime_seconds"`
	Checks  []Check `json:"checks"` // in the order of their names
}

// Check is one condition that a service needs for its work.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"` // what is wrong; "" where nothing is
	Fix    string `json:"fix"`    // what the operator can do about it; "" where nothing is known
}

// Call is a call of this API that does something.
type Call struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	Body   any    `json:"body,omitzero"` // to be completed where a field is null
}

// Pending lists all decisions that wait for a person, the newest first.
type Pending struct {
	Items   []Item            `json:"items"`
	Count   int               `json:"count"`
	Omitted int               `json:"omitted,omitzero"` // older ones, beyond 1000
	Errors  map[string]string `json:"errors"`           // sections that could not be asked: packs, handlers, locks, network, secrets
}

// Item is one thing that waits for a person.
type Item struct {
	Kind   string    `json:"kind"` // pack, handler, lock, network, secret
	PackID string    `json:"pack_id"`
	What   string    `json:"what"`
	Since  time.Time `json:"since"`
	Count  int64     `json:"count,omitzero"` // refused requests, of kind network
	Risk   string    `json:"risk,omitzero"`
	Review *Call     `json:"review,omitzero"` // shows what is decided about
	Decide Call      `json:"decide"`

	Confirmation *confirm.Confirmation `json:"confirmation,omitzero"` // somebody asked for it: decide confirms that, by another person
}

// Storage lists the files and folders that take room on the disk, the largest first.
type Storage struct {
	Items          []Stored          `json:"items"`
	Count          int               `json:"count"`
	Bytes          int64             `json:"bytes"`           // of all items, those that are omitted too
	RemovableBytes int64             `json:"removable_bytes"` // of those among Items that may go
	Omitted        int               `json:"omitted,omitzero"`
	Errors         map[string]string `json:"errors"` // by service
}

// Stored is one thing on the disk, and the service that keeps it.
type Stored struct {
	Service string `json:"service"`
	diskusage.Item
}

// Pack is all about one pack. What could not be asked is null and named in Errors.
type Pack struct {
	PackID      string            `json:"pack_id"`
	Status      pack.Status       `json:"status" api:"enum="`
	MayRun      bool              `json:"may_run"`
	Identity    string            `json:"pack_identity"`
	Version     string            `json:"version"`
	Description string            `json:"description"`
	CreatedAt   time.Time         `json:"created_at"`
	ApprovedAt  *time.Time        `json:"approved_at"`
	Digest      *string           `json:"digest"`
	Error       *string           `json:"error"`
	Container   jsontext.Value    `json:"container"` // as in GET /api/containers; null for none
	Network     *Network          `json:"network"`
	Secrets     []Secret          `json:"secrets"`
	Handlers    []Handler         `json:"handlers"`
	Lock        *Lock             `json:"lock"`        // the newest; null for none
	Suspended   []Suspended       `json:"suspended"`   // the grants of the pack that the policy suspends
	Denials24h  *int64            `json:"denials_24h"` // requests refused, of destinations that were refused in the last 24 h
	Next        []Step            `json:"next"`        // what is left to do, in this order
	Errors      map[string]string `json:"errors"`

	Confirmation *confirm.Confirmation `json:"confirmation,omitzero"` // an approval that waits for another person
}

// Suspended is a grant of a pack that the policy doesn't cover.
type Suspended struct {
	What string `json:"what"` // network, or the permission of a capability grant
	policy.Violation
}

// Network compares the domains and ports that a pack asks for with those that it was granted.
type Network struct {
	Requested Destinations   `json:"requested"`
	Granted   jsontext.Value `json:"granted"` // as in GET /api/network/list; null for none
	Missing   Destinations   `json:"missing"`

	Forbidden *policy.Violation `json:"forbidden"` // the rule of the policy by which the caller can't grant all that is requested; null for none
}

// Destinations are domains, patterns among them, and ports.
type Destinations struct {
	Domains []string `json:"allowed_domains"`
	Ports   []int    `json:"allowed_ports"`
}

// Secret is one that a pack asks for or may read.
type Secret struct {
	Key       string `json:"key"`
	Requested bool   `json:"requested"`
	Set       *bool  `json:"set"`     // null where it is not known
	Granted   *bool  `json:"granted"` // likewise
}

// Handler is a handler that the pack ships.
type Handler struct {
	Slug         string  `json:"slug"`
	HandlerID    string  `json:"handler_id"`
	PermissionID string  `json:"permission_id"`
	State        string  `json:"state"`
	CandidateKey string  `json:"candidate_key"`
	LastError    *string `json:"last_error"`

	Confirmation *confirm.Confirmation `json:"confirmation,omitzero"` // an approval that waits for another person
}

// Lock is the pack's requirements.lock.
type Lock struct {
	State        string  `json:"state"`
	CandidateKey string  `json:"candidate_key"`
	Path         string  `json:"requirements_relpath"`
	Packages     int     `json:"packages"`
	LastError    *string `json:"last_error"`

	Confirmation *confirm.Confirmation `json:"confirmation,omitzero"` // an approval that waits for another person
}

// Step is something that is left to do.
type Step struct {
	What string `json:"what"`
	Call
}
