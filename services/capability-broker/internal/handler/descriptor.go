package handler

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/rumi-ai/rumi/libs/jsonpos"
	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/grant"
	"github.com/rumi-ai/rumi/services/capability-broker/internal/schema"
)

// The files a handler's folder must have. The candidate's key has the SHA-256 of scriptFile; trust is in the
// whole folder.
const (
	descriptorFile = "handler.json"
	scriptFile     = "handler.py"
)

const maxDescriptionRunes = 4096

var (
	slugPattern      = regexp.MustCompile(`\A[a-zA-Z0-9_-]{1,64}\z`)
	handlerIDPattern = regexp.MustCompile(`\A[a-zA-Z0-9_.-]{1,64}\z`)
	entryPattern     = regexp.MustCompile(`\Ahandler\.py:[A-Za-z_][A-Za-z0-9_]{0,63}\z`)
)

// Descriptor is a handler.json. Other members have no effect, but a warning.
type Descriptor struct {
	HandlerID    string `json:"handler_id"`
	PermissionID string `json:"permission_id"`
	Entrypoint   string `json:"entrypoint"`
	Description  string `json:"description"`
	Risk         string `json:"risk"`

	// ConfigSchema is the JSON Schema that the config of a grant must satisfy; absent where any object does.
	ConfigSchema jsontext.Value `json:"config_schema,omitzero"`

	unknown []string // members with no effect, in the order of the file
}

// knownMembers are the members of a handler.json.
var knownMembers = pack.Members(reflect.TypeFor[Descriptor](), "")

// warnings name the members with no effect, which are often misspelt ones.
func (d Descriptor) warnings() (all []string) {
	for _, member := range d.unknown[:min(len(d.unknown), pack.MaxWarnings)] {
		all = append(all, descriptorFile+": "+pack.UnknownMember(member, knownMembers))
	}
	return all
}

// parseDescriptor reads a handler.json strictly: a name twice, invalid UTF-8, an id out of its alphabet or a
// permission that is the broker's own is an error.
func parseDescriptor(raw []byte) (Descriptor, error) {
	var d Descriptor
	if err := json.Unmarshal(raw, &d); err != nil {
		return Descriptor{}, fmt.Errorf("parse %s: %s", descriptorFile, jsonpos.Describe(raw, err))
	}
	d.unknown = pack.UnknownMembers(raw, knownMembers)
	if d.Entrypoint == "" {
		d.Entrypoint = scriptFile + ":execute"
	}
	switch {
	case !handlerIDPattern.MatchString(d.HandlerID) || strings.Trim(d.HandlerID, ".") == "":
		return Descriptor{}, fmt.Errorf("parse %s: handler_id must match ^[a-zA-Z0-9_.-]{1,64}$", descriptorFile)
	case !grant.ValidPermission(d.PermissionID):
		return Descriptor{}, fmt.Errorf("parse %s: permission_id must be dotted lower-case names, at most 128 characters", descriptorFile)
	case grant.Reserved(d.PermissionID):
		return Descriptor{}, fmt.Errorf("parse %s: permission_id %q is the broker's own", descriptorFile, d.PermissionID)
	case !entryPattern.MatchString(d.Entrypoint):
		return Descriptor{}, fmt.Errorf("parse %s: entrypoint must be %s:FUNCTION", descriptorFile, scriptFile)
	case len([]rune(d.Description)) > maxDescriptionRunes || len(d.Risk) > maxDescriptionRunes:
		return Descriptor{}, fmt.Errorf("parse %s: description or risk is too long", descriptorFile)
	}
	if d.ConfigSchema != nil {
		if _, err := schema.Compile(d.ConfigSchema); err != nil {
			return Descriptor{}, fmt.Errorf("parse %s: config_schema: %w", descriptorFile, err)
		}
		// As it will be read back from the store, so that both compare equal.
		stored, err := json.Marshal(d.ConfigSchema)
		if err != nil {
			return Descriptor{}, fmt.Errorf("parse %s: config_schema: %w", descriptorFile, err)
		}
		d.ConfigSchema = stored
	}
	return d, nil
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
