package backup

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/rumi-ai/rumi/libs/backupstatus"
	"github.com/rumi-ai/rumi/libs/flock"
)

// StatusDir is where the state of the scheduled backups is, relative to the home.
const StatusDir = "user_data/backup_status"

// retryAfter is how long after a failed backup the next one is tried, if the interval is longer.
const retryAfter = 15 * time.Minute

// Schedule says when backups are taken, and which are kept.
type Schedule struct {
	Options
	Dir      string        // where the backups go
	Interval time.Duration // from one to the next; a minute at least
	Keep     int           // verified backups, the newest; one at least
	Weeks    int           // further the newest of each of so many weeks
}

// Run takes backups until ctx ends. A backup that fails is tried again; the status says why. Only one process at a time takes backups into a
// folder. The time of the next one counts from the newest that is there, so a restart neither skips nor repeats one.
func (s Schedule) Run(ctx context.Context) error {
	lock := flock.New(filepath.Join(s.Dir, ".lock"))
	if err := lock.Try(); err != nil {
		lock.Close()
		return fmt.Errorf("another process takes backups into %s: %w", s.Dir, err)
	}
	defer lock.Close()
	status, err := s.resume()
	if err != nil {
		return err
	}
	for {
		wait := s.wait(status)
		s.Log.Info("next backup", "in", wait.Round(time.Second).String())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		status = s.once(ctx, status)
		if ctx.Err() != nil {
			return nil
		}
		if err := backupstatus.File.Write(filepath.Join(s.Home, StatusDir), status); err != nil {
			s.Log.Error("the status could not be written", "error", err.Error())
		}
	}
}

// resume is the status as the last process left it, and as the folder of the backups says: what isn't there any more is no backup.
func (s Schedule) resume() (backupstatus.Status, error) {
	status, _, err := backupstatus.File.Read(filepath.Join(s.Home, StatusDir))
	if err != nil {
		s.Log.Warn("the status of the backups begins anew", "error", err.Error())
		status = backupstatus.Status{}
	}
	status.Interval = s.Interval.Seconds()
	if err := s.newest(&status); err != nil {
		return status, err
	}
	return status, backupstatus.File.Write(filepath.Join(s.Home, StatusDir), status)
}

// newest corrects which backup is the newest verified one.
func (s Schedule) newest(status *backupstatus.Status) error {
	all, err := list(s.Dir)
	if err != nil {
		return err
	}
	before := status.Newest
	status.Newest = nil
	for _, k := range all {
		if !k.Verified {
			continue
		}
		status.Newest = &backupstatus.Backup{Name: k.Name, At: k.At, Size: k.Size}
		if before != nil && before.Name == k.Name {
			status.Newest = before
		}
		return nil
	}
	return nil
}

// wait is how long the next backup has time.
func (s Schedule) wait(status backupstatus.Status) time.Duration {
	var due time.Time
	if status.Newest != nil {
		due = status.Newest.At.Add(s.Interval)
	}
	if status.Problem != "" {
		due = maxTime(due, status.LastRun.Add(min(retryAfter, s.Interval)))
	}
	return max(0, due.Sub(s.Now()))
}

func maxTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// once takes one backup, and removes those that are over.
func (s Schedule) once(ctx context.Context, status backupstatus.Status) backupstatus.Status {
	began := s.Now().UTC()
	status.LastRun, status.Problem, status.Problems = began, "", nil
	report, name, err := s.take(ctx, began)
	switch {
	case err != nil:
		status.Problem = "The last backup failed: " + err.Error()
	case !report.OK:
		status.Problem = fmt.Sprintf("The verification of the last backup, %s, found %d problems, such as: %s", name, len(report.Problems), first(report.Problems))
	}
	for _, p := range report.Problems {
		status.Problems = append(status.Problems, p.String())
	}
	if err := clearOld(s.Dir, s.Keep, s.Weeks); err != nil {
		s.Log.Error("old backups could not be removed", "error", err.Error())
	}
	if err := s.newest(&status); err != nil {
		status.Problem = err.Error()
	}
	if status.Newest != nil && status.Newest.Name == name {
		status.Newest.Files, status.Newest.Took = report.Files, s.Now().Sub(began).Seconds()
	}
	s.tell(status, report, name)
	return status
}

// take writes a backup under a name that says whether it was verified without a problem.
func (s Schedule) take(ctx context.Context, at time.Time) (Report, string, error) {
	name := "rumi-" + at.Format(nameTime) + ".age"
	out, report, err := prepare(ctx, filepath.Join(s.Dir, name), false, s.Options)
	if err != nil {
		return Report{}, "", err
	}
	defer out.Discard()
	if !report.OK {
		name = "rumi-" + at.Format(nameTime) + "-unverified.age"
		out.Rename(name)
	}
	if err := out.Commit(); err != nil {
		return Report{}, "", err
	}
	return report, name, nil
}

func (s Schedule) tell(status backupstatus.Status, report Report, name string) {
	log := s.Log.With(slog.String("file", name), slog.Int("files", report.Files), slog.Int64("bytes", report.Bytes))
	if status.Problem != "" {
		log.Error("backup", "problem", status.Problem)
		return
	}
	log.Info("backup written and verified")
}
