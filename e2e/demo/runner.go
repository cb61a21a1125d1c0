package main

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rumi-ai/rumi/e2e/internal/api"
	"github.com/rumi-ai/rumi/e2e/internal/auditlog"
	"github.com/rumi-ai/rumi/e2e/internal/engine"
)

// auditWait is the longest time between an answer and its audit entry in the file.
const auditWait = 15 * time.Second

// runner runs the demo once, against one suite.
type runner struct {
	cfg    *runCommand
	api    *api.Client
	docker *engine.Engine
	out    io.Writer
	began  time.Time
	steps  int

	instance string // the label io.rumi.instance of the suite's containers; "" until the first container was inspected
}

func newRunner(cfg *runCommand, token string, out io.Writer) *runner {
	client := &api.Client{Base: cfg.API, Host: cfg.Host, Token: strings.TrimSpace(token)}
	client.Waiting = func(wait time.Duration) { fmt.Fprintf(out, "    (waiting %v for the API's rate limit)\n", wait) }
	return &runner{
		cfg:    cfg,
		api:    client,
		docker: engine.Open(cfg.Docker),
		out:    out,
		began:  time.Now(),
	}
}

func (r *runner) auditDir() string { return filepath.Join(r.cfg.Home, "user_data/audit") }

// step is one action of the operator. A function makes its calls and notes with expectAudit which audit entries they must cause; these are
// awaited after the function has returned, because an entry may reach its file after the answer.
type step struct {
	*runner
	ctx      context.Context
	began    time.Time
	expected []expectedEntry
}

// expectedEntry is an audit entry that a step must cause.
type expectedEntry struct {
	what    string // for messages
	matches func(auditlog.Entry) bool
}

// step runs one step and prints its name, duration and result (shown, which may have several lines). Then it waits for the step's audit
// entries and prints them. An error of do, or a missing entry, is a surprise: it is printed and returned.
func (r *runner) step(ctx context.Context, name string, do func(*step) (shown string, err error)) error {
	r.steps++
	s := &step{runner: r, ctx: ctx, began: time.Now()}
	shown, err := do(s)
	if err != nil {
		fmt.Fprintf(r.out, "%2d. %s\n      SURPRISE: %v\n", r.steps, name, err)
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprintf(r.out, "%2d. %s (%v)\n", r.steps, name, time.Since(s.began).Round(time.Millisecond))
	for line := range strings.Lines(shown) {
		fmt.Fprintf(r.out, "      %s\n", strings.TrimRight(line, "\n"))
	}
	for _, want := range s.expected {
		bounded, cancel := context.WithTimeout(ctx, auditWait)
		entry, err := auditlog.Await(bounded, r.auditDir(), s.began, want.matches)
		cancel()
		if err != nil {
			fmt.Fprintf(r.out, "      SURPRISE: no audit entry %s: %v\n", want.what, err)
			return fmt.Errorf("%s: no audit entry %s: %w", name, want.what, err)
		}
		fmt.Fprintf(r.out, "      audit: %v\n", entry)
	}
	return nil
}

// expectAudit notes that the request with answer a must cause an audit entry of this category, action and outcome. An action that ends in
// "_" stands for all actions that begin with it.
func (s *step) expectAudit(a api.Answer, category, action string, success bool) {
	s.expected = append(s.expected, expectedEntry{
		what: category + "/" + action + " of request " + a.RequestID,
		matches: func(e auditlog.Entry) bool {
			return e.RequestID == a.RequestID && e.Category == category && actionMatches(e, action) && e.Success == success
		},
	})
}

// expectAuditOf notes that an act of actor must cause an audit entry about a pack. It is for acts without a request of the demo: those of a
// pack, and those of the suite itself.
func (s *step) expectAuditOf(actor, pack, category, action string, success bool) {
	s.expected = append(s.expected, expectedEntry{
		what: category + "/" + action + " of pack " + pack,
		matches: func(e auditlog.Entry) bool {
			return e.Actor == actor && e.OwnerPack == pack && e.Category == category && actionMatches(e, action) && e.Success == success
		},
	})
}

// actionMatches reports whether an entry has an action, or begins with it if it ends in "_".
func actionMatches(e auditlog.Entry, action string) bool {
	return e.Action == action || strings.HasSuffix(action, "_") && strings.HasPrefix(e.Action, action)
}

// get, post and remove make a request that must succeed, and decode its data where into isn't nil.
func (s *step) get(path string, into any) (api.Answer, error) {
	a, err := s.api.Get(s.ctx, path)
	return succeeded("GET "+path, a, err, into)
}

func (s *step) post(path string, body, into any) (api.Answer, error) {
	a, err := s.api.Post(s.ctx, path, body)
	return succeeded("POST "+path, a, err, into)
}

func (s *step) remove(path string, into any) (api.Answer, error) {
	a, err := s.api.Delete(s.ctx, path)
	return succeeded("DELETE "+path, a, err, into)
}

// succeeded returns an error unless a call was answered with 200 and success. It decodes the answer's data where into isn't nil.
func succeeded(call string, a api.Answer, err error, into any) (api.Answer, error) {
	if err != nil {
		return a, err
	}
	if a.Status != 200 || !a.Success {
		return a, fmt.Errorf("%s: answered %v", call, a)
	}
	if into == nil {
		return a, nil
	}
	return a, a.Into(into)
}

// refused returns an error unless a call was answered with this status and an error that contains text.
func refused(a api.Answer, err error, status int, text string) error {
	if err != nil {
		return err
	}
	if a.Status != status || a.Success || !strings.Contains(a.Error, text) {
		return fmt.Errorf("answered %v, want %d %s", a, status, text)
	}
	return nil
}

// waitUntil calls ask every 100 ms until it returns true or an error. It returns how long that took; an error that names what if limit is
// over.
func (s *step) waitUntil(limit time.Duration, what string, ask func() (bool, error)) (took time.Duration, err error) {
	began := time.Now()
	for {
		yes, err := ask()
		if err != nil || yes {
			return time.Since(began), err
		}
		if time.Since(began) > limit {
			return 0, fmt.Errorf("%s: not after %v", what, limit)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-s.ctx.Done():
			return 0, fmt.Errorf("%s: %w", what, s.ctx.Err())
		}
	}
}

// archive returns a zip file of a folder, as an operator would make it: one top folder with everything in it.
func archive(dir string) ([]byte, error) {
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	top := filepath.Base(dir)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		header, err := zip.FileInfoHeader(info)
		if err != nil {
			return err
		}
		header.Name, header.Method = filepath.ToSlash(filepath.Join(top, relative)), zip.Deflate
		into, err := z.CreateHeader(header)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, err = into.Write(data)
		return err
	})
	if err := errors.Join(err, z.Close()); err != nil {
		return nil, fmt.Errorf("pack %s: %w", dir, err)
	}
	return out.Bytes(), nil
}
