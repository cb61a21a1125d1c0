package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Denied is a revoked certificate.
type Denied struct {
	Serial    string    `json:"serial"` // lowercase hex digits; see Serial
	Service   string    `json:"service"`
	NotAfter  time.Time `json:"not_after"` // when it would have ended: it leaves the list soon after
	RevokedAt time.Time `json:"revoked_at"`
}

// keepDenied is how long a revoked certificate stays in the list after its end: clocks of hosts differ.
const keepDenied = clockSkew

// over says whether a certificate needs no place in the list any more.
func (d Denied) over(now time.Time) bool { return now.After(d.NotAfter.Add(keepDenied)) }

// Deny adds revoked certificates to the list, and cuts the connections of peers that have shown one of them. It never takes one from the
// list before its end: of two lists, an older one can't undo the newer. When it returns no connection stands on one of them, and no
// further handshake accepts one. It returns how many were new.
func (id *Identity) Deny(list []Denied) (added int) {
	id.mu.Lock()
	defer id.mu.Unlock()
	now := time.Now()
	for _, d := range list {
		if _, known := id.denied[d.Serial]; !known && !d.over(now) {
			id.denied[d.Serial] = d
			added++
		}
	}
	maps.DeleteFunc(id.denied, func(_ string, d Denied) bool { return d.over(now) })
	if added > 0 {
		id.cutLocked(func(c *Conn) bool { return id.deniedError(c.peer) != nil })
	}
	return added
}

// KeepDenied is Deny that also writes the list to the folder, so that a restart knows it, even while it hears nothing from the service
// secrets. The list is in force whatever the error is.
func (id *Identity) KeepDenied(list []Denied) (added int, err error) {
	if added = id.Deny(list); added == 0 {
		return 0, nil
	}
	return added, WriteDenied(id.dir, id.Denied())
}

// Denied are the revoked certificates that are known, sorted by service and serial.
func (id *Identity) Denied() []Denied {
	id.mu.Lock()
	defer id.mu.Unlock()
	return slices.SortedFunc(maps.Values(id.denied), func(a, b Denied) int {
		return strings.Compare(a.Service+" "+a.Serial, b.Service+" "+b.Serial)
	})
}

func (id *Identity) isDenied(cert *x509.Certificate) bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.deniedError(cert) != nil
}

// deniedList is the content of denied.json.
type deniedList struct {
	Denied []Denied `json:"denied"`
}

// WriteDenied writes the list of revoked certificates to a service's folder. Every replica of the service takes it over (Reload).
func WriteDenied(dir string, list []Denied) error {
	data, err := json.Marshal(deniedList{Denied: list}, jsontext.WithIndent("  "))
	if err != nil {
		return fmt.Errorf("write denied certificates: %w", err)
	}
	return writeFile(dir, file{DeniedFile, append(data, '\n')})
}

// readDenied reads the list of a folder; it is empty where there is none.
func readDenied(dir string) ([]Denied, error) {
	path := filepath.Join(dir, DeniedFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, unreadable(err)
	}
	var list deniedList
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("load identity: %s is no list of revoked certificates: %w. Remove it: the service secrets sends the list again", path, err)
	}
	return list.Denied, nil
}
