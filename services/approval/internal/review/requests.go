package review

import (
	"path"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/pack"
	"github.com/rumi-ai/rumi/libs/text"
	"github.com/rumi-ai/rumi/libs/tree"
)

// maxRequestFile bounds a file that requests are read from, in bytes.
const maxRequestFile = 1 << 20

// null is the permissions of a pack that has no such file.
var null = jsontext.Value("null")

// requestsOf reads what the files of a tree ask for. Files that are too large or invalid are in Unread.
func requestsOf(m tree.Manifest, open Open) (Requests, error) {
	files := map[string]tree.Entry{}
	r := Requests{Secrets: []string{}, Domains: []string{}, Ports: []uint16{}, Handlers: []Handler{}, Packages: []string{}, Permissions: null, Unread: []string{}}
	for _, e := range m.Entries {
		switch {
		case e.Kind != tree.File:
		case e.Size <= maxRequestFile:
			files[e.Path] = e
		case isRequestFile(e.Path):
			r.Unread = append(r.Unread, e.Path)
		}
	}
	if err := readDescriptor(&r, files, open); err != nil {
		return r, err
	}
	if err := readPermissions(&r, files, open); err != nil {
		return r, err
	}
	for _, e := range m.Entries {
		if _, ok := files[e.Path]; !ok {
			continue
		}
		if err := readRequest(&r, e, files, open); err != nil {
			return r, err
		}
	}
	return r, nil
}

// readDescriptor takes over what the descriptor asks for.
func readDescriptor(r *Requests, files map[string]tree.Entry, open Open) error {
	for _, base := range []string{"", "backend"} {
		e, ok := files[path.Join(base, pack.File)]
		if !ok {
			continue
		}
		data, err := read(e, open)
		if err != nil {
			return err
		}
		if d, err := pack.ParseDescriptor(data); err == nil { // one that is none is said by the pack's state
			r.Secrets = append(r.Secrets, d.RequiredSecrets...)
			r.Domains = append(r.Domains, d.RequiredNetwork.AllowedDomains...)
			r.Ports = append(r.Ports, d.RequiredNetwork.AllowedPorts...)
		}
		return nil
	}
	return nil
}

// readPermissions takes over permissions.json as it is. With two of them the one in backend/ counts.
func readPermissions(r *Requests, files map[string]tree.Entry, open Open) error {
	for _, name := range []string{"permissions.json", "backend/permissions.json"} {
		e, ok := files[name]
		if !ok {
			continue
		}
		data, err := read(e, open)
		if err != nil {
			return err
		}
		if value := jsontext.Value(data); value.IsValid() {
			r.Permissions = value
		} else {
			r.Unread = append(r.Unread, name)
		}
	}
	return nil
}

// readRequest adds what one file asks for.
func readRequest(r *Requests, e tree.Entry, files map[string]tree.Entry, open Open) error {
	switch {
	case e.Path == "requirements.lock", e.Path == "backend/requirements.lock":
		data, err := read(e, open)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				r.Packages = append(r.Packages, text.Escape(line))
			}
		}
	case isHandler(e.Path):
		data, err := read(e, open)
		if err != nil {
			return err
		}
		var h struct {
			HandlerID    string `json:"handler_id"`
			PermissionID string `json:"permission_id"`
			Risk         string `json:"risk"`
		}
		if json.Unmarshal(data, &h) != nil { // it can't be approved either
			r.Unread = append(r.Unread, e.Path)
			return nil
		}
		dir := path.Dir(e.Path)
		r.Handlers = append(r.Handlers, Handler{
			Slug: path.Base(dir), HandlerID: h.HandlerID, PermissionID: h.PermissionID, Risk: h.Risk,
			SHA256: files[path.Join(dir, "handler.py")].SHA256,
		})
	}
	return nil
}

// isRequestFile says whether a file of that name can ask for something.
func isRequestFile(name string) bool {
	switch strings.TrimPrefix(name, "backend/") {
	case pack.File, "permissions.json", "requirements.lock":
		return true
	}
	return isHandler(name)
}

func isHandler(name string) bool {
	for _, pattern := range []string{"share/capability_handlers/*/handler.json", "backend/share/capability_handlers/*/handler.json"} {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return false
}

// newRequests are the requests that old doesn't have.
func newRequests(r, old Requests) Requests {
	more := Requests{
		Secrets: without(r.Secrets, old.Secrets), Domains: without(r.Domains, old.Domains), Ports: without(r.Ports, old.Ports),
		Handlers: without(r.Handlers, old.Handlers), Packages: without(r.Packages, old.Packages), Permissions: null, Unread: without(r.Unread, old.Unread),
	}
	if string(r.Permissions) != string(old.Permissions) {
		more.Permissions = r.Permissions
	}
	return more
}

func without[T comparable](all, known []T) []T {
	more := []T{}
	for _, v := range all {
		if !slices.Contains(known, v) {
			more = append(more, v)
		}
	}
	return more
}
