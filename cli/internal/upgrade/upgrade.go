// Package upgrade replaces a running suite by another version of it, and puts the old one back where that fails. It is what `rumi upgrade`
// does, on the host, with docker compose.
//
// # The order
//
// Everything slow happens while the old version runs: the new images are built, a backup is written, verified, and restored into a scratch
// folder. Then begins the change, which takes seconds:
//
//  1. The gateway stops: from here on no operator's call is answered, so none can be lost.
//  2. The services are paused, their databases copied, and the services killed while they are paused. So nothing is acknowledged between the
//     copy and the end. A killed broker leaves packs running; one that is stopped together with approval would stop them, too.
//  3. The new services start, without the gateway, and have to become healthy.
//  4. The gateway starts, and has to become healthy.
//
// Until the end of 4 a failure leads back: the new services are killed, the databases that the new version has changed are put back (the old
// one refuses them), the old images get their names again, and the old services start from the old docker-compose.yml.
//
// Read upgrade.go first, then back.go, docker.go and record.go.
package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/libs/flock"
	"github.com/rumi-ai/rumi/libs/roster"
)

// Config says what to upgrade.
type Config struct {
	Dir      string        // the folder with docker-compose.yml
	To       string        // the git revision to upgrade to; "" if it is checked out already
	From     string        // with To == "": the revision that runs
	Timeout  time.Duration // for the new version to become healthy
	NoBackup bool
	NoBuild  bool // the new images are there already
	Progress io.Writer
	Run      Runner
	Now      func() time.Time
	Poll     time.Duration // how often it is asked whether a service is healthy
}

const (
	maxRestarts = 3                // of a new container: then it will never be healthy
	backWait    = 5 * time.Minute  // for the old version to be back; it takes seconds, and a slow machine is no reason to give up
	execWait    = 10 * time.Second // for one health check
)

// RolledBackError says that the upgrade failed and the old version runs again.
type RolledBackError struct {
	Cause error         // why the upgrade failed
	Took  time.Duration // of the way back
}

// Error implements error.
func (e *RolledBackError) Error() string {
	return fmt.Sprintf("the upgrade failed, and the version from before runs again after %v: %v", e.Took.Round(100*time.Millisecond), e.Cause)
}

// Unwrap returns the cause.
func (e *RolledBackError) Unwrap() error { return e.Cause }

// Run upgrades. If the error is a *RolledBackError, the old version runs again. Another error says either that nothing was changed, or, if it says
// so, that the old version could not be started again and what to type.
func Run(ctx context.Context, c Config) error {
	u, err := c.begin(ctx)
	if err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	defer u.lock.Close()
	err = u.forward(ctx)
	if err == nil {
		u.record.Outcome = "upgraded"
		return u.record.write(c.Dir)
	}
	return u.fail(ctx, err)
}

// fail undoes as much as was done.
func (u *upgrade) fail(ctx context.Context, cause error) error {
	ctx = context.WithoutCancel(ctx) // a signal ends the upgrade, not the way back
	began := u.Now()
	switch {
	case u.killed:
		u.say("rolling back: %v", cause)
		if err := u.back(ctx); err != nil {
			return fmt.Errorf("the upgrade failed (%w), and the version from before could not be started: %w. %s", cause, err, u.byHand())
		}
	case u.paused || u.stopped:
		u.say("going on with the version that ran: %v", cause)
		if err := u.resume(ctx); err != nil {
			return fmt.Errorf("the upgrade failed (%w), and what it had paused could not go on: %w. Type: docker compose unpause; docker compose up --detach", cause, err)
		}
	default:
		return errors.Join(fmt.Errorf("nothing was changed: %w", cause), u.retag(ctx), u.checkoutBack(ctx))
	}
	u.record.Outcome = "rolled back"
	return &RolledBackError{Cause: errors.Join(cause, u.record.write(u.Dir), u.checkoutBack(ctx)), Took: u.Now().Sub(began)}
}

// upgrade is one upgrade.
type upgrade struct {
	Config
	lock     *flock.File
	began    time.Time
	old, new project
	oldParts map[string]service
	newParts map[string]service
	running  []container
	record   Record

	stopped, paused, killed bool
	changed                 string // databases that were put back
}

// say tells how far it is, with the seconds since the beginning.
func (u *upgrade) say(format string, args ...any) {
	fmt.Fprintf(u.Progress, "%6.1fs  %s\n", u.Now().Sub(u.began).Seconds(), fmt.Sprintf(format, args...))
}

// begin finds out what runs, and writes it down.
func (c Config) begin(ctx context.Context) (_ *upgrade, err error) {
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return nil, err
	}
	u := &upgrade{Config: c, began: c.Now()}
	if err := os.MkdirAll(filepath.Join(c.Dir, Folder), 0o700); err != nil {
		return nil, err
	}
	u.lock = flock.New(filepath.Join(c.Dir, Folder, "lock"))
	if err := u.lock.Try(); err != nil {
		return nil, fmt.Errorf("another upgrade is under way: %w", err)
	}
	defer func() {
		if err != nil {
			u.lock.Close()
		}
	}()
	if last, ok, err := read(c.Dir); err != nil {
		return nil, err
	} else if ok && last.Outcome == "" && last.Databases != "" {
		return nil, errors.New("the last upgrade was interrupted. Go back first: rumi upgrade --back")
	}
	u.record = Record{At: c.Now().UTC().Truncate(time.Second)}
	if err := u.sources(ctx); err != nil {
		return nil, err
	}
	if err := u.inspect(ctx); err != nil {
		return nil, err
	}
	return u, u.record.write(c.Dir)
}

// sources keeps the compose file of the version that runs.
func (u *upgrade) sources(ctx context.Context) error {
	from := u.From
	if u.To != "" {
		from = "HEAD"
		if dirty, err := u.git(ctx, "status", "--porcelain", "--untracked-files=no"); err != nil || dirty != "" {
			return errors.Join(errors.New("files of this folder were changed: commit them, or put them aside with git stash"), err)
		}
		branch, err := u.git(ctx, "rev-parse", "--abbrev-ref", "HEAD")
		if err != nil {
			return err
		}
		u.record.Branch = branch
	}
	commit, err := u.git(ctx, "rev-parse", "--verify", from+"^{commit}")
	if err != nil {
		return fmt.Errorf("which version runs? Name its commit: --from COMMIT: %w", err)
	}
	if u.record.From = commit; u.record.Branch == "HEAD" {
		u.record.Branch = commit
	}
	text, err := u.Config.Run(ctx, u.Dir, "git", "show", commit+":docker-compose.yml")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(u.Dir, Folder, composeName), []byte(text), 0o600)
}

func (u *upgrade) git(ctx context.Context, args ...string) (string, error) {
	out, err := u.Config.Run(ctx, u.Dir, "git", args...)
	return strings.TrimSpace(out), err
}

// oldProject is the project as the old compose file describes it, with the operator's overrides.
func (c Config) oldProject(name string) project {
	files := []string{filepath.Join(c.Dir, Folder, composeName)}
	if list := os.Getenv("COMPOSE_FILE"); list != "" {
		files = append(files, strings.Split(list, ":")[1:]...)
	} else if _, err := os.Stat(filepath.Join(c.Dir, "docker-compose.override.yml")); err == nil {
		files = append(files, "docker-compose.override.yml")
	}
	return project{run: c.Run, dir: c.Dir, files: files, name: name}
}

// inspect finds out which containers run, of which images, and that all of them are the project's.
func (u *upgrade) inspect(ctx context.Context) (err error) {
	u.old = u.oldProject("")
	if u.old.name, u.oldParts, err = u.old.config(ctx); err != nil {
		return err
	}
	u.record.Project = u.old.name
	if u.running, err = u.old.containers(ctx); err != nil {
		return err
	}
	if !slices.ContainsFunc(u.running, func(c container) bool { return c.Service == roster.Gateway && c.State == "running" }) {
		return errors.New("the suite doesn't run, so there is no version to go back to. Start it: docker compose up --detach")
	}
	u.record.Images, u.record.Profiles = map[string]string{}, []string{}
	for _, c := range u.running {
		part, ok := u.oldParts[c.Service]
		if !ok {
			continue // of an earlier version; compose calls it an orphan
		}
		u.record.Images[part.Image] = c.Image
		for _, profile := range part.Profiles {
			if c.State == "running" && !slices.Contains(u.record.Profiles, profile) {
				u.record.Profiles = append(u.record.Profiles, profile)
			}
		}
	}
	return u.keepImages(ctx)
}

// keepImages gives the old images a second name, so that nothing that cleans up removes them.
func (u *upgrade) keepImages(ctx context.Context) error {
	for name, id := range u.record.Images {
		repository := name
		if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') { // a registry's port is no tag
			repository = name[:i]
		}
		if _, err := u.Config.Run(ctx, u.Dir, "docker", "tag", id, repository+":"+u.keptTag()); err != nil {
			return err
		}
	}
	return nil
}

// keptTag is the tag of the images from before. It has the project's name, since suites may share images.
func (u *upgrade) keptTag() string { return "before-upgrade-" + u.record.Project }

// forward makes the new version run.
func (u *upgrade) forward(ctx context.Context) error {
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"checking out " + u.To, u.checkout},
		{"building the new images", u.build},
		{"backing up, and restoring the backup into a scratch folder", u.backup},
		{"closing the door: the gateway stops", u.stopGateway},
		{"pausing the services and copying their databases", u.freeze},
		{"starting the new services", u.start},
		{"opening the door: the gateway starts", u.open},
	} {
		u.say("%s", step.what)
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (u *upgrade) checkout(ctx context.Context) error {
	if u.To != "" {
		if _, err := u.git(ctx, "checkout", "--quiet", "--detach", u.To); err != nil {
			return err
		}
	}
	var err error
	u.new = project{run: u.Config.Run, dir: u.Dir, name: u.record.Project}
	_, u.newParts, err = u.new.config(ctx)
	return err
}

func (u *upgrade) checkoutBack(ctx context.Context) error {
	if u.record.Branch == "" {
		return nil
	}
	_, err := u.git(ctx, "checkout", "--quiet", u.record.Branch)
	return err
}

func (u *upgrade) build(ctx context.Context) error {
	if u.NoBuild {
		return nil
	}
	_, err := u.new.compose(ctx, "build")
	return err
}

// backup writes a backup with the new version's program, while the old version runs.
func (u *upgrade) backup(ctx context.Context) error {
	if u.NoBackup {
		u.say("  without a backup, as asked")
		return nil
	}
	name := "before-upgrade-" + u.record.At.Format("20060102T150405Z") + ".age"
	args := []string{"create", name, "--rehearse"}
	if os.Getenv("RUMI_BACKUP_RECIPIENTS") == "" && !u.configured(ctx) {
		key := "/backups/" + strings.TrimSuffix(name, ".age") + ".key"
		recipient, err := u.new.operator(ctx, "rumi", "backup", "key", key)
		if err != nil {
			return err
		}
		u.say("  there is no RUMI_BACKUP_RECIPIENTS: the key of this backup is beside it, in %s", filepath.Base(key))
		args = append(args, "--recipient", strings.TrimSpace(recipient))
	}
	if _, err := u.new.operator(ctx, "backup", args...); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	u.record.Backup = name
	return u.record.write(u.Dir)
}

// configured says whether .env says for whom backups are encrypted.
func (u *upgrade) configured(ctx context.Context) bool {
	out, err := u.new.compose(ctx, "--profile", "backup", "config", "--environment")
	if err != nil {
		return false
	}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if value != "" && (name == "RUMI_BACKUP_RECIPIENTS" || name == "RUMI_BACKUP_PASSPHRASE_FILE") {
			return true
		}
	}
	return false
}

func (u *upgrade) stopGateway(ctx context.Context) error {
	u.stopped = true
	_, err := u.old.compose(ctx, "stop", roster.Gateway)
	return err
}

// lastingOf are the ids of the containers of services that run all the time, but for the gateway.
func lastingOf(parts map[string]service, all []container) (ids []string) {
	for _, c := range all {
		if c.Service != roster.Gateway && c.State != "exited" && parts[c.Service].lasting() {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// freeze pauses the services, copies the databases, and kills the services.
func (u *upgrade) freeze(ctx context.Context) error {
	ids := lastingOf(u.oldParts, u.running)
	u.paused = true
	if _, err := u.Config.Run(ctx, u.Dir, "docker", append([]string{"pause"}, ids...)...); err != nil {
		return err
	}
	name := "upgrade-" + u.record.At.Format("20060102T150405Z")
	if _, err := u.new.operator(ctx, "rumi", "databases", "save", name); err != nil {
		return fmt.Errorf("copy the databases: %w", err)
	}
	u.record.Databases = name
	if err := u.record.write(u.Dir); err != nil {
		return err
	}
	u.killed = true
	_, err := u.Config.Run(ctx, u.Dir, "docker", append([]string{"kill"}, ids...)...)
	return err
}

// resume lets the old version go on.
func (u *upgrade) resume(ctx context.Context) error {
	if u.paused {
		for _, id := range lastingOf(u.oldParts, u.running) {
			_, _ = u.Config.Run(ctx, u.Dir, "docker", "unpause", id) // one that wasn't paused yet says so
		}
	}
	_, err := u.old.compose(ctx, "start", roster.Gateway)
	return errors.Join(err, u.retag(ctx))
}

// start starts the new services, without the gateway, and waits until they are healthy.
func (u *upgrade) start(ctx context.Context) error {
	args := []string{"up", "--detach", "--no-build"}
	for name, part := range u.newParts {
		if name != roster.Gateway && part.lasting() && len(part.Profiles) == 0 {
			args = append(args, name)
		}
	}
	slices.Sort(args[3:])
	ctx, cancel := context.WithTimeout(ctx, u.Timeout)
	defer cancel()
	if _, err := u.new.compose(ctx, args...); err != nil {
		return u.late(ctx, err)
	}
	return u.late(ctx, u.healthy(ctx, u.new, u.newParts, args[3:]))
}

// open starts the gateway and what else ran.
func (u *upgrade) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, u.Timeout)
	defer cancel()
	if _, err := u.new.compose(ctx, append(profiles(u.record.Profiles), "up", "--detach", "--no-build")...); err != nil {
		return u.late(ctx, err)
	}
	return u.late(ctx, u.healthy(ctx, u.new, u.newParts, []string{roster.Gateway}))
}

func profiles(names []string) (args []string) {
	for _, name := range names {
		args = append(args, "--profile", name)
	}
	return args
}

// late says in an error that the time was over.
func (u *upgrade) late(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("not healthy after %v: %w", u.Timeout, err)
	}
	return err
}

// healthy waits until each of the services says that it is healthy.
func (u *upgrade) healthy(ctx context.Context, p project, parts map[string]service, names []string) error {
	missing := slices.Clone(names)
	for {
		all, err := p.containers(ctx)
		if err != nil {
			return err
		}
		var last error
		missing = slices.DeleteFunc(missing, func(name string) bool {
			err := u.check(ctx, parts[name], name, all)
			if err != nil {
				last = err
			}
			return err == nil
		})
		if len(missing) == 0 {
			return nil
		}
		if dead, ok := errors.AsType[*deadError](last); ok {
			return dead
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(u.Poll):
		}
	}
}

// deadError says that a service will not become healthy.
type deadError struct{ service, why string }

func (e *deadError) Error() string {
	return fmt.Sprintf("%s %s; see docker compose logs %s", e.service, e.why, e.service)
}

// check asks one service whether it is healthy, by the command that compose asks it with, now and not at the next interval.
func (u *upgrade) check(ctx context.Context, part service, name string, all []container) error {
	i := slices.IndexFunc(all, func(c container) bool { return c.Service == name })
	if i < 0 {
		return fmt.Errorf("%s has no container", name)
	}
	c := all[i]
	if c.Restarts >= maxRestarts {
		return &deadError{name, "ends again and again"}
	}
	if c.State != "running" {
		return fmt.Errorf("%s is %s; see docker compose logs %s", name, c.State, name)
	}
	if part.Healthcheck == nil || len(part.Healthcheck.Test) < 2 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, execWait)
	defer cancel()
	if _, err := u.Config.Run(ctx, u.Dir, "docker", append([]string{"exec", c.ID}, part.Healthcheck.Test[1:]...)...); err != nil {
		return fmt.Errorf("%s is not healthy: %w", name, err)
	}
	return nil
}
