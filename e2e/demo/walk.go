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

// auditWait is how long an audit entry may take to be seen after the answer that it belongs to.
const auditWait = 15 * time.Second

// walk is one run of the demo.
type walk struct {
	cfg    *runCommand
	api    *api.Client
	docker *engine.Engine
	out    io.Writer
	began  time.Time
	steps  int

	instance string // the label io.rumi.instance of the suite's containers, once one has been seen
}

func newWalk(cfg *runCommand, token string, out io.Writer) *walk {
	client := &api.Client{Base: cfg.API, Host: cfg.Host, Token: strings.TrimSpace(token)}
	client.Waiting = func(wait time.Duration) { fmt.Fprintf(out, "    (waiting %v for the API's rate limit)\n", wait) }
	return &walk{
		cfg:    cfg,
		api:    client,
		docker: engine.Open(cfg.Docker),
		out:    out,
		began:  time.Now(),
	}
}

func (w *walk) auditDir() string { return filepath.Join(w.cfg.Home, "user_data/audit") }

// step is one thing that the operator does. What it does is one function; what must come of it is noted on the step and
// checked when the function has returned.
type step struct {
	*walk
	ctx    context.Context
	began  time.Time
	wanted []wanted
}

// wanted is an audit entry that a step must leave.
type wanted struct {
	what string
	fits func(auditlog.Entry) bool
}

// step runs one step, prints what it showed and waits for its audit entries.
func (w *walk) step(ctx context.Context, name string, do func(*step) (shown string, err error)) error {
	w.steps++
	s := &step{walk: w, ctx: ctx, began: time.Now()}
	shown, err := do(s)
	if err != nil {
		fmt.Fprintf(w.out, "%2d. %s\n      SURPRISE: %v\n", w.steps, name, err)
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprintf(w.out, "%2d. %s (%v)\n", w.steps, name, time.Since(s.began).Round(time.Millisecond))
	for line := range strings.Lines(shown) {
		fmt.Fprintf(w.out, "      %s\n", strings.TrimRight(line, "\n"))
	}
	for _, want := range s.wanted {
		bounded, cancel := context.WithTimeout(ctx, auditWait)
		entry, err := auditlog.Await(bounded, w.auditDir(), s.began, want.fits)
		cancel()
		if err != nil {
			fmt.Fprintf(w.out, "      SURPRISE: no audit entry %s: %v\n", want.what, err)
			return fmt.Errorf("%s: no audit entry %s: %w", name, want.what, err)
		}
		fmt.Fprintf(w.out, "      audit: %v\n", entry)
	}
	return nil
}

// leaves notes that a request must have left an audit entry with this category, action (or beginning of one that ends in
// "_") and outcome.
func (s *step) leaves(a api.Answer, category, action string, success bool) {
	s.wanted = append(s.wanted, wanted{
		what: category + "/" + action + " of request " + a.RequestID,
		fits: func(e auditlog.Entry) bool {
			return e.RequestID == a.RequestID && e.Category == category && named(e, action) && e.Success == success
		},
	})
}

// leavesOf notes that something which actor did to or as a pack must have left an audit entry.
func (s *step) leavesOf(actor, pack, category, action string, success bool) {
	s.wanted = append(s.wanted, wanted{
		what: category + "/" + action + " of pack " + pack,
		fits: func(e auditlog.Entry) bool {
			return e.Actor == actor && e.OwnerPack == pack && e.Category == category && named(e, action) && e.Success == success
		},
	})
}

func named(e auditlog.Entry, action string) bool {
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

// refused makes sure that a request was answered with a status and an error that contains text.
func refused(a api.Answer, err error, status int, text string) error {
	if err != nil {
		return err
	}
	if a.Status != status || a.Success || !strings.Contains(a.Error, text) {
		return fmt.Errorf("answered %v, want %d %s", a, status, text)
	}
	return nil
}

// within asks again and again until the answer is yes, for as long as it may take.
func (s *step) within(limit time.Duration, what string, ask func() (bool, error)) (took time.Duration, err error) {
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

// archive packs a folder as an operator would: one top folder, everything in it.
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
