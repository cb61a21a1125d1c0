package setup

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/rumi-ai/rumi/libs/identity"
)

// authorityDir is the folder of the certificate authority, in that of the identities. The service secrets mounts it, and no other: it renews
// certificates while the suite runs (docs/adr/certificate-authority.md). init issues the first ones.
const authorityDir = "authority"

// issueCertificates issues each service's certificate where it is missing, revoked or half over, by the home's authority, which it makes
// where there is none.
func (cfg Config) issueCertificates(dir, home string, log *slog.Logger) error {
	authority, err := cfg.loadOrMakeAuthority(dir, home, log)
	if err != nil || authority == nil {
		return err
	}
	authority.Home, authority.Life = home, cfg.CertificateLife
	for _, name := range Services {
		if own := filepath.Join(dir, name); !authority.Current(name, own, cfg.Now) {
			if err := authority.Issue(name, own, cfg.Now); err != nil {
				return err
			}
			log.Info("certificate issued", "service", name)
		}
	}
	return cfg.ownCertificates(dir)
}

// ownCertificates gives the files of the authority and of the identities to the services' user: those of earlier versions, whose authority
// was root's, and those of an earlier run that was interrupted.
func (cfg Config) ownCertificates(dir string) error {
	files := map[string][]string{authorityDir: {identity.CAFile, identity.KeyFile, identity.RegisterFile}}
	for _, name := range Services {
		files[name] = []string{identity.CAFile, identity.IdentityFile, identity.HomeFile, identity.DeniedFile}
	}
	for folder, names := range files {
		for _, name := range names {
			if err := chown(filepath.Join(dir, folder, name), cfg.UID, cfg.GID); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// endedInterval is how often replaceEnded looks at the certificates.
const endedInterval = time.Minute

// replaceEnded returns a step of Reconcile, which issues a certificate in place of one that has ended or is revoked. A service can't renew
// such a one itself, because nobody admits it any more. That is so after a machine was off for longer than the certificates live: then the
// engine starts the services without init.
func (cfg Config) replaceEnded(dir, home string, log *slog.Logger) func() error {
	var next time.Time
	var last error
	return func() error {
		if now := time.Now(); !now.Before(next) {
			next, last = now.Add(endedInterval), cfg.replaceEndedAt(now, dir, home, log)
		}
		return last
	}
}

func (cfg Config) replaceEndedAt(now time.Time, dir, home string, log *slog.Logger) error {
	authority, err := identity.LoadAuthority(filepath.Join(dir, authorityDir))
	if err != nil {
		return err
	}
	authority.Home, authority.Life = home, cfg.CertificateLife
	for _, name := range Services {
		own := filepath.Join(dir, name)
		if authority.Good(name, own, now) {
			continue
		}
		if err := authority.Issue(name, own, now); err != nil {
			return err
		}
		log.Warn("certificate issued in place of one that had ended or was revoked", "service", name)
	}
	return nil
}

// loadOrMakeAuthority reads the certificate authority, or makes one where there is none. For one that can't be read it depends:
//   - no service has a certificate yet, as after a first start that was interrupted: a new one is made;
//   - all services have certificates: these stay valid, nothing is issued, and the result is nil;
//   - otherwise it is an error: services with certificates of two authorities wouldn't trust each other.
func (cfg Config) loadOrMakeAuthority(dir, home string, log *slog.Logger) (*identity.Authority, error) {
	path := filepath.Join(dir, authorityDir)
	authority, err := identity.LoadAuthority(path)
	if err == nil {
		return authority, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		certified := 0
		for _, name := range Services {
			if id, err := identity.Load(filepath.Join(dir, name)); err == nil && id.Name == name && id.Home == home {
				certified++
			}
		}
		err = fmt.Errorf("the certificate authority in user_data/settings/identity/authority can't be used: %w. Restore its %s and %s from a backup. "+
			"Or have a new one made: remove both files, then run: docker compose up --detach --force-recreate", err, identity.CAFile, identity.KeyFile)
		switch certified {
		case 0:
			log.Warn("certificate authority made anew: no service has a certificate of the one that is there", "error", err.Error())
			if err := setAside(filepath.Join(path, identity.CAFile), filepath.Join(path, identity.KeyFile)); err != nil {
				return nil, fmt.Errorf("make authority: %w", err)
			}
		case len(Services):
			log.Error("no certificates can be renewed; those that the services have stay good until they end, in 90 days at most", "error", err.Error())
			return nil, nil
		default:
			return nil, err
		}
	}
	if authority, err = identity.NewAuthority(cfg.Now); err != nil {
		return nil, err
	}
	if err := authority.Save(path); err != nil {
		return nil, err
	}
	log.Info("certificate authority made", "path", path)
	return authority, nil
}
