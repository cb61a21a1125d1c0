// Package secrets declares the endpoints of the service secrets: operators set, list and delete secrets; the capability broker
// asks for values; every service has its certificate renewed.
package secrets

import (
	"time"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/identity/renewal"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
)

// Service is the name of the service.
const Service = roster.Secrets

// The endpoints.
var (
	List = route.New[struct{}, ListResponse]("GET", "/api/secrets", Service, route.Quick, access.ReadSecrets,
		"List the keys of secrets")
	Set = route.New[SetRequest, SetResponse]("POST", "/api/secrets/set", Service, route.Quick, access.SetSecrets,
		"Set a secret").
		Fails("invalid_key", "invalid_value", "missing_key", "value_too_large")
	Delete = route.New[DeleteRequest, DeleteResponse]("POST", "/api/secrets/delete", Service, route.Quick, access.DeleteSecrets,
		"Delete a secret").
		Fails("invalid_key", "missing_key", "secret_not_found")

	// GetValue is for the capability broker only.
	GetValue = route.Internal[ValueRequest, ValueResponse]("POST", "/internal/secrets/value", Service, roster.CapabilityBroker)

	// Routes are all of them, with those of the service's second task: the certificates of all services.
	Routes = append(route.NewTable(List, Set, Delete, GetValue).
		Fail("no_space", "secrets_key_unavailable"), renewal.Table...)
)

// ListResponse has every key that was ever set, deleted ones too, without the values.
type ListResponse struct {
	Keys  []Listed `json:"keys"`
	Count int      `json:"count"`
}

// Listed is a key in the list.
type Listed struct {
	Key       string     `json:"key"`
	Exists    bool       `json:"exists"` // it has a value
	Deleted   bool       `json:"deleted"`
	CreatedAt *time.Time `json:"created_at"` // null where the file is damaged
	UpdatedAt *time.Time `json:"updated_at"` // likewise
	DeletedAt time.Time  `json:"deleted_at,omitzero"`
	Masked    string     `json:"masked"`           // "********", whatever the value
	Damaged   bool       `json:"damaged,omitzero"` // its file can't be read; set it again
}

// SetRequest gives a secret a value.
type SetRequest struct {
	Key   string `json:"key" api:"required,pattern=^[A-Z0-9_]{1,64}$"` // ^[A-Z0-9_]{1,64}$
	Value Input  `json:"value" api:"required"`                         // a string; as JSON it has at most 1 MiB less 1 KiB
}

// SetResponse says whether the key is new.
type SetResponse struct {
	Success bool   `json:"success"`
	Key     string `json:"key"`
	Created bool   `json:"created"` // false where a value was replaced
}

// DeleteRequest names the secret to delete.
type DeleteRequest struct {
	Key string `json:"key" api:"required"`
}

// DeleteResponse is that of a deletion, the first or a repeated one.
type DeleteResponse struct {
	Success bool   `json:"success"`
	Key     string `json:"key"`
}

// ValueRequest names a secret.
type ValueRequest struct {
	Key string `json:"key"` // ^[A-Z0-9_]{1,64}$
}

// ValueResponse carries its value.
type ValueResponse struct {
	Value Exposed `json:"value"`
}
