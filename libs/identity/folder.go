package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/flock"
)

// The files of an identity's folder. CAFile and KeyFile are those of an authority's folder, too.
const (
	CAFile       = "ca.pem"
	IdentityFile = "identity.pem"
	DeniedFile   = "denied.json"
	KeyFile      = "key.pem"
)

// formerFiles are those that had key and certificate before they were one file. Issue removes them: nothing reads them any more.
var formerFiles = []string{"cert.pem", "key.pem"}

// read reads certificate, key, authority and home id of a folder, and checks that they belong together.
func read(dir string) (*material, string, error) {
	ca, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, "", unreadable(err)
	}
	path := filepath.Join(dir, IdentityFile)
	both, err := os.ReadFile(path)
	if err != nil {
		return nil, "", unreadable(err)
	}
	cert, err := tls.X509KeyPair(both, both)
	if err != nil {
		return nil, "", fmt.Errorf("load identity: %s: %w", path, err)
	}
	home, err := ReadHome(filepath.Join(dir, HomeFile))
	if err != nil {
		return nil, "", unreadable(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, "", fmt.Errorf("load identity: %s holds no certificate", filepath.Join(dir, CAFile))
	}
	if err := belongs(cert.Leaf, ca, home); err != nil {
		return nil, "", fmt.Errorf("load identity: %s: %w%s", path, err, runInit)
	}
	return &material{cert: cert, ca: ca, roots: roots}, home, nil
}

// belongs says whether a certificate is one of the authority ca and of the home. Whether it has begun and ended is for the handshakes to
// say: the clock may be wrong at the start and right later.
func belongs(leaf *x509.Certificate, ca []byte, home string) error {
	authority, err := parseCertificate(ca)
	if err != nil {
		return fmt.Errorf("%s: %w", CAFile, err)
	}
	if err := leaf.CheckSignatureFrom(authority); err != nil {
		return fmt.Errorf("the authority in %s did not sign it: %w", CAFile, err)
	}
	issued, err := homeOf(leaf)
	if err == nil && issued != home {
		err = fmt.Errorf("it was issued in home %s, but %s says %s", issued, HomeFile, home)
	}
	return err
}

// runInit is the end of errors about an identity that is missing or outdated: init makes a new one.
const runInit = " (run init: docker compose up --detach)"

// unreadable adds to an error of reading what to do about it, if that is known.
func unreadable(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("load identity: %w%s", err, runInit)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("load identity: %w for uid %d", err, os.Geteuid())
	}
	return fmt.Errorf("load identity: %w", err)
}

// stamp tells versions of a file apart. The zero value is that of no file.
type stamp struct {
	inode, size uint64
	changed     unix.Timespec
}

func stampOf(path string) stamp {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return stamp{}
	}
	return stamp{st.Ino, uint64(st.Size), st.Ctim}
}

// Reload takes over what was written to the folder since the last call: a certificate that another replica renewed or that init or
// `rumi certificates revoke` issued, the certificate of a new authority with it, and revoked certificates. It costs two system calls where
// nothing has changed, so that it may be called several times a second.
//
// An identity that can't be used leaves the present one in force, and is an error: one that doesn't belong together, is of another
// name or home, is revoked or has ended. An error is returned once for each version of the files.
func (id *Identity) Reload() error {
	id.mu.Lock()
	certificate, denied := stampOf(filepath.Join(id.dir, IdentityFile)), stampOf(filepath.Join(id.dir, DeniedFile))
	renewed, revoked := certificate != id.seen[0], denied != id.seen[1]
	id.seen = [2]stamp{certificate, denied}
	id.mu.Unlock()
	var problems []error
	if revoked {
		list, err := readDenied(id.dir)
		problems = append(problems, err)
		id.Deny(list)
	}
	if renewed {
		err := id.takeOver()
		problems = append(problems, err)
		id.mu.Lock()
		if id.refused = ""; err != nil {
			id.refused = err.Error()
		}
		id.mu.Unlock()
	}
	return errors.Join(problems...)
}

// takeOver replaces the identity by that of the folder. With another authority all connections end: no certificate that they stand on is
// good any more.
func (id *Identity) takeOver() error {
	next, home, err := read(id.dir)
	if err != nil {
		return err
	}
	name, err := nameOf(next.cert.Leaf)
	if err == nil && (name != id.Name || home != id.Home) {
		err = fmt.Errorf("it is the identity of %q in home %s, this service is %q in home %s", name, home, id.Name, id.Home)
	}
	if err != nil {
		return fmt.Errorf("load identity: %s: %w", id.dir, err)
	}
	now := id.current.Load()
	sameAuthority := bytes.Equal(now.ca, next.ca)
	if sameAuthority && now.cert.Leaf.Equal(next.cert.Leaf) {
		return nil
	}
	if sameAuthority && id.isDenied(next.cert.Leaf) && !id.isDenied(now.cert.Leaf) {
		return fmt.Errorf("load identity: %s: the certificate %s is revoked; the present one stays in force", id.dir, Serial(next.cert.Leaf))
	}
	if end := next.cert.Leaf.NotAfter; ended(next.cert.Leaf, time.Now()) && end.Before(now.cert.Leaf.NotAfter) {
		return fmt.Errorf("load identity: %s: the certificate has ended at %s; the present one stays in force", id.dir, end.UTC().Format(time.RFC3339))
	}
	id.current.Store(next)
	if !sameAuthority {
		id.cutIf(func(*Conn) bool { return true })
	}
	return nil
}

// writeFolder writes an identity of a service: the authority's certificate and the home first, then key and certificate in one file. A
// reader in between finds a certificate that the authority did not sign, and tries again.
func writeFolder(dir, home string, ca, key, leaf []byte) error {
	files := []file{{CAFile, ca}, {HomeFile, []byte(home + "\n")}, {IdentityFile, append(bytes.Clone(key), leaf...)}}
	for _, f := range files {
		if old, err := os.ReadFile(filepath.Join(dir, f.name)); err == nil && bytes.Equal(old, f.data) {
			continue
		}
		if err := writeFile(dir, f); err != nil {
			return err
		}
	}
	return nil
}

// file is the name and the content of a file.
type file struct {
	name string
	data []byte
}

// writeFile writes a file of a folder completely or not at all. When it returns, content and name are synced: a crash must not leave an
// empty certificate. Root gives it to the owner of the folder, who has to read it.
func writeFile(dir string, f file) error {
	var options []atomicfile.Option
	if os.Geteuid() == 0 {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return fmt.Errorf("write identity: %s: %w", dir, err)
		}
		options = append(options, atomicfile.Owner(int(st.Uid), int(st.Gid)))
	}
	if err := atomicfile.WritePath(filepath.Join(dir, f.name), f.data, 0o600, options...); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	return nil
}

// lockWait bounds the wait for the lock of a folder: a renewal that is under way holds it for the time of a call.
const lockWait = 15 * time.Second

// tryLock takes the lock of a folder, which belongs to who renews its certificate or changes its register, or returns flock.ErrLocked. It
// is the folder itself that is locked: a lock file that root made could not be opened by the service.
func tryLock(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := flock.TryOpen(f, flock.Exclusive); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// waitLock is tryLock, but waits for the lock for lockWait.
func waitLock(dir string) (unlock func(), err error) {
	for end := time.Now().Add(lockWait); ; time.Sleep(10 * time.Millisecond) {
		unlock, err := tryLock(dir)
		if !errors.Is(err, flock.ErrLocked) || time.Now().After(end) {
			return unlock, err
		}
	}
}

func parseCertificate(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	return x509.ParseCertificate(block.Bytes)
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
