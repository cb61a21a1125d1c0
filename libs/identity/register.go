package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// RegisterFile is the file of a Register.
const RegisterFile = "certificates.json"

// Issued is a certificate in the register.
type Issued struct {
	Serial    string    `json:"serial"` // lowercase hex digits; see Serial
	Service   string    `json:"service"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	RevokedAt time.Time `json:"revoked_at,omitzero"`
	Audited   bool      `json:"audited,omitzero"` // the audit log has the revocation
}

// Revoked says whether the certificate is revoked.
func (i Issued) Revoked() bool { return !i.RevokedAt.IsZero() }

// Register is the list of the certificates that an authority has signed and that have not ended: without it, a certificate that a thief of
// a key had renewed would have a serial number that nobody knows, and could not be revoked. It is a file in the authority's folder.
// Whoever changes it holds the folder's lock: processes exclude each other.
type Register struct{ dir string }

// NewRegister is the register in an authority's folder.
func NewRegister(dir string) Register { return Register{dir} }

// Path is the register's file.
func (r Register) Path() string { return filepath.Join(r.dir, RegisterFile) }

// Version tells one content of the file from another; it is cheap. Without a file it is that of none.
func (r Register) Version() string { return fmt.Sprint(stampOf(r.Path())) }

type registered struct {
	Certificates []Issued `json:"certificates"`
}

// Read reads the list, in the order of issue; it is empty where there is no file.
func (r Register) Read() ([]Issued, error) {
	data, err := os.ReadFile(r.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read register of certificates: %w", err)
	}
	var all registered
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("read register of certificates: %s: %w. Restore the file from a backup. If you remove it instead, revoked "+
			"certificates are good again on hosts that don't know of them", r.Path(), err)
	}
	return all.Certificates, nil
}

// Revoked says whether the certificate with a serial number is in the register as revoked.
func (r Register) Revoked(serial string) (bool, error) {
	all, err := r.Read()
	return slices.ContainsFunc(all, func(i Issued) bool { return i.Serial == serial && i.Revoked() }), err
}

// Change has change turn the list into another one, and writes that. An error of change leaves the list as it is, and is returned.
func (r Register) Change(change func([]Issued) ([]Issued, error)) error {
	unlock, err := waitLock(r.dir)
	if err != nil {
		return fmt.Errorf("change register of certificates: %w", err)
	}
	defer unlock()
	all, err := r.Read()
	if err != nil {
		return err
	}
	now := time.Now()
	all = slices.DeleteFunc(all, func(i Issued) bool { return now.After(i.NotAfter.Add(keepDenied)) })
	if all, err = change(all); err != nil {
		return err
	}
	data, err := json.Marshal(registered{all}, jsontext.WithIndent("  "))
	if err != nil {
		return fmt.Errorf("change register of certificates: %w", err)
	}
	return writeFile(r.dir, file{RegisterFile, append(data, '\n')})
}

// Add adds a certificate.
func (r Register) Add(cert *x509.Certificate) error {
	return r.Change(func(all []Issued) ([]Issued, error) { return append(all, Entry(cert)), nil })
}

// Entry is a certificate as the register has it.
func Entry(cert *x509.Certificate) Issued {
	name, _ := nameOf(cert)
	return Issued{Serial: Serial(cert), Service: name, NotBefore: cert.NotBefore, NotAfter: cert.NotAfter}
}

// Revoke revokes all certificates of the named service but the one with the serial number kept, and returns those that were good until now.
func (r Register) Revoke(service, kept string, now time.Time) (revoked []Issued, err error) {
	err = r.Change(func(all []Issued) ([]Issued, error) {
		for i := range all {
			if one := &all[i]; one.Service == service && one.Serial != kept && !one.Revoked() {
				one.RevokedAt = now.UTC()
				revoked = append(revoked, *one)
			}
		}
		return all, nil
	})
	return revoked, err
}

// DeniedOf are the revoked certificates of a list.
func DeniedOf(all []Issued) []Denied {
	var denied []Denied
	for _, i := range all {
		if i.Revoked() {
			denied = append(denied, Denied{Serial: i.Serial, Service: i.Service, NotAfter: i.NotAfter, RevokedAt: i.RevokedAt})
		}
	}
	return denied
}
