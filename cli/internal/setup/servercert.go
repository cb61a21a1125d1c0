package setup

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rumi-ai/rumi/libs/atomicfile"
	"github.com/rumi-ai/rumi/libs/servercert"
)

// tlsDir holds the copy of the operator's certificate that the gateway mounts: certificates and key in one file, so that both change in one
// step. The operator's own files are most often root's, and in folders with links to versions, as certbot makes them; the gateway could
// neither read them nor follow the links.
const (
	tlsDir        = "tls"
	tlsCopy       = "server.pem"
	certSetting   = "RUMI_TLS_CERT_FILE"
	keySetting    = "RUMI_TLS_KEY_FILE"
	tlsDirSetting = "RUMI_TLS_DIR"
)

// hostMount is where compose mounts folders of the host at their own paths.
const hostMount = "/operator/host"

// ServerCert are the settings that name the certificate of the API. All three paths are those of the host.
type ServerCert struct {
	Cert, Key string // the files; "" for plain HTTP
	Dir       string // a folder above both, and above what links in it lead to
	Host      string // where Dir is mounted, at its own path below this folder; "" for hostMount
}

// ensureServerCert copies the operator's certificate for the gateway. Without a copy that can stay in force, one that can't be used is an error.
func (cfg Config) ensureServerCert(settings string, log *slog.Logger) error {
	err := cfg.shareServerCert(settings, log)
	if err == nil {
		return nil
	}
	if copied, missing := os.ReadFile(filepath.Join(settings, tlsDir, tlsCopy)); missing != nil {
		return err
	} else if _, bad := servercert.Parse(copied, copied); bad != nil {
		return err
	}
	if wrong := cfg.ServerCert.incomplete(); wrong != nil {
		return wrong // the operator has just written it
	}
	log.Error("the certificate of the API can't be used", "error", err.Error())
	return nil
}

// shareServerCert brings the gateway's copy up to the operator's files. If these can't be used, the copy from before stays in force, and the
// reason is written beside it for the gateway's readiness to show; it is the error, too.
func (cfg Config) shareServerCert(settings string, log *slog.Logger) error {
	copied := filepath.Join(settings, tlsDir, tlsCopy)
	problem := copied + servercert.ProblemSuffix
	if cfg.ServerCert.Cert == "" && cfg.ServerCert.Key == "" {
		return removeAll(copied, problem)
	}
	pair, err := cfg.ServerCert.read()
	if err != nil {
		err = fmt.Errorf("%s, %s: %w", certSetting, keySetting, err)
		if noted := cfg.replaceChanged(problem, []byte(err.Error()+"; the certificate from before stays in force\n")); noted != nil {
			return errors.Join(err, fmt.Errorf("note what is wrong with the certificate: %w", noted))
		}
		return err
	}
	if old, err := os.ReadFile(copied); err != nil || !bytes.Equal(old, pair) {
		if err := atomicfile.WritePath(copied, pair, 0o600, atomicfile.Owner(cfg.UID, cfg.GID)); err != nil {
			return fmt.Errorf("copy certificate: %w", err)
		}
		log.Info("certificate copied for the gateway", "path", copied)
	}
	return removeAll(problem)
}

func removeAll(paths ...string) error {
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what the certificate left: %w", err)
		}
	}
	return nil
}

// read returns the certificates and the key, one after the other.
func (s ServerCert) read() ([]byte, error) {
	if err := s.incomplete(); err != nil {
		return nil, err
	}
	cert, err := s.contents(s.Cert)
	if err != nil {
		return nil, err
	}
	key, err := s.contents(s.Key)
	if err != nil {
		return nil, err
	}
	if _, err := servercert.Parse(cert, key); err != nil {
		return nil, err
	}
	if bytes.Equal(cert, key) {
		return cert, nil
	}
	return bytes.Join([][]byte{bytes.TrimSpace(cert), bytes.TrimSpace(key), nil}, []byte("\n")), nil
}

// incomplete says what to write to .env where the three settings don't belong together.
func (s ServerCert) incomplete() error {
	switch {
	case s.Cert == "" || s.Key == "":
		return fmt.Errorf("%s and %s belong together: set both, or neither for plain HTTP", certSetting, keySetting)
	case s.Dir == "":
		return fmt.Errorf("%s is missing: the folder that holds both files, and what links in it lead to. A folder is needed because a file "+
			"that is mounted by itself isn't seen any more once it is replaced. Write to .env: %s=%s", tlsDirSetting, tlsDirSetting, s.folder())
	}
	for _, path := range []string{s.Cert, s.Key} {
		if below, err := filepath.Rel(s.Dir, path); err != nil || !filepath.IsLocal(below) {
			return fmt.Errorf("%s is not in %s=%s. Write to .env: %s=%s", path, tlsDirSetting, s.Dir, tlsDirSetting, s.folder())
		}
	}
	return nil
}

// folder is a folder that fits the two files. certbot's files in live/NAME are links to archive/NAME.
func (s ServerCert) folder() string {
	dir := filepath.Dir(s.Cert)
	if above, _, found := strings.Cut(dir, "/live/"); found {
		return above
	}
	for !strings.HasPrefix(s.Key, strings.TrimSuffix(dir, "/")+"/") && dir != "/" && dir != "." {
		dir = filepath.Dir(dir)
	}
	return dir
}

// contents reads a file of the host. Links lead where they do on the host, but not out of the mounted folder.
func (s ServerCert) contents(path string) ([]byte, error) {
	root, err := os.Open(cmp.Or(s.Host, hostMount))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	fd, err := unix.Openat2(int(root.Fd()), path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: no such file, or a link that leads out of %s=%s", path, tlsDirSetting, s.Dir)
	} else if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	return servercert.Contents(file)
}
