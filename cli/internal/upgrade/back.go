package upgrade

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rumi-ai/rumi/libs/flock"
)

// Back goes back to the version that ran before the last upgrade, also if that was interrupted or has succeeded. What the new version has
// changed in databases that the old one can't read is put aside, in user_data/state/backup; changed says which those are.
func Back(ctx context.Context, c Config) (changed string, err error) {
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return "", err
	}
	lock := flock.New(filepath.Join(c.Dir, Folder, "lock"))
	defer lock.Close()
	if err := lock.Try(); err != nil {
		return "", fmt.Errorf("go back: another upgrade is under way, or there never was one: %w", err)
	}
	r, ok, err := read(c.Dir)
	switch {
	case err != nil:
		return "", err
	case !ok || r.Databases == "":
		return "", errors.New("go back: there is no upgrade to go back from")
	case r.Outcome == "rolled back":
		return "", errors.New("go back: the last upgrade was rolled back already")
	}
	u := &upgrade{Config: c, began: c.Now(), lock: lock, record: r, old: c.oldProject(r.Project)}
	if _, u.oldParts, err = u.old.config(ctx); err != nil {
		return "", err
	}
	u.new = project{run: c.Run, dir: c.Dir, name: r.Project}
	if _, u.newParts, err = u.new.config(ctx); err != nil {
		return "", err
	}
	if err := u.back(ctx); err != nil {
		return "", fmt.Errorf("go back: %w. %s", err, u.byHand())
	}
	u.record.Outcome = "rolled back"
	return u.changed, errors.Join(u.record.write(c.Dir), u.checkoutBack(ctx))
}

// back makes the old version run again.
func (u *upgrade) back(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, backWait)
	defer cancel()
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"killing the new services; packs run on", u.kill},
		{"putting back the certificates, and the databases that the new version has changed", u.putBack},
		{"giving the old images their names", u.retag},
		{"letting the old init mend the home", u.mend},
		{"starting the old services", u.startOld},
	} {
		u.say("  %s", step.what)
		if err := step.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (u *upgrade) kill(ctx context.Context) error {
	all, err := u.new.containers(ctx)
	if err != nil {
		return err
	}
	var ids []string
	for _, c := range all {
		if c.State == "running" || c.State == "restarting" || c.State == "paused" {
			ids = append(ids, c.ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	if _, err := u.Config.Run(ctx, u.Dir, "docker", append([]string{"kill"}, ids...)...); err != nil && !strings.Contains(err.Error(), "is not running") {
		return err
	}
	return nil
}

// putBack needs the new version's program, whose name the image has until retag. So a second try doesn't do it again.
func (u *upgrade) putBack(ctx context.Context) error {
	if u.record.PutBack {
		return nil
	}
	out, err := u.new.operator(ctx, "rumi", "databases", "back", u.record.Databases)
	if err != nil {
		return err
	}
	if u.changed = strings.Join(strings.Fields(out), ", "); u.changed != "" {
		u.say("    put back: %s", u.changed)
	}
	u.record.PutBack = true
	return u.record.write(u.Dir)
}

func (u *upgrade) retag(ctx context.Context) error {
	for name, id := range u.record.Images {
		if _, err := u.Config.Run(ctx, u.Dir, "docker", "tag", id, name); err != nil {
			return err
		}
	}
	return nil
}

// mend lets the old version's init correct what the new one's has changed in folders. It isn't needed to start, so a failure is only told.
func (u *upgrade) mend(ctx context.Context) error {
	if _, err := u.old.operator(ctx, "init"); err != nil {
		u.say("    it failed: %v", err)
	}
	return nil
}

// startOld starts all services at once. What they depend on has been made.
func (u *upgrade) startOld(ctx context.Context) error {
	var names []string
	for name, part := range u.oldParts {
		wanted := len(part.Profiles) == 0 || slices.ContainsFunc(part.Profiles, func(p string) bool { return slices.Contains(u.record.Profiles, p) })
		if part.lasting() && wanted {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	args := append(profiles(u.record.Profiles), "up", "--detach", "--no-build", "--no-deps")
	if _, err := u.old.compose(ctx, append(args, names...)...); err != nil {
		return err
	}
	u.say("  waiting until they are healthy")
	return u.healthy(ctx, u.old, u.oldParts, names)
}

// byHand says how a person goes on where the program can't.
func (u *upgrade) byHand() string {
	return "Try again: rumi upgrade --back. The databases from before are in user_data/state/backup/" + u.record.Databases +
		", the images have the tag " + u.keptTag() + ", the compose file is " + filepath.Join(Folder, composeName)
}
