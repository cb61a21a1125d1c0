package oidc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/rumi-ai/rumi/libs/atomicfile"
)

const (
	refreshInterval = 10 * time.Minute
	retryInterval   = 15 * time.Second // after a failure
	fetchTimeout    = 12 * time.Second // of one; egress-proxy gives up after 10 s

	// minInterval is the least time between two fetches for the sake of tokens with unknown keys.
	minInterval = 10 * time.Second
	// waitForKeys is how long such a token waits for the fetch.
	waitForKeys = 3 * time.Second

	// maxAge is how old keys may be: an issuer that can't be reached could have taken them back. staleAfter is when that is shown.
	maxAge     = 7 * 24 * time.Hour
	staleAfter = time.Hour

	maxFile = 2 << 20 // bytes of the file of keys
)

// Fetched is what came from the issuer.
type Fetched struct {
	Issuer string         // whose keys these are
	Keys   jsontext.Value // a JWK set
}

// fetching is the state of what gets the keys.
type fetching struct {
	wake chan struct{} // asks Run for a fetch

	mu    sync.Mutex
	tried time.Time     // when the last fetch ended
	err   error         // of it
	done  chan struct{} // closed when the next one ends
}

// stored is the file that keeps the keys over a restart.
type stored struct {
	Issuer    string         `json:"issuer"`
	FetchedAt time.Time      `json:"fetched_at"`
	Keys      jsontext.Value `json:"keys"`
}

// New makes a Verifier with the keys of its file, if these are of the issuer. What can't be read is fetched anew.
func New(cfg Config) *Verifier {
	v := &Verifier{
		cfg: cfg, seen: map[[32]byte]*admitted{}, people: map[string]string{},
		fetching: fetching{wake: make(chan struct{}, 1), done: make(chan struct{})},
	}
	keys, err := v.load()
	switch {
	case err == nil:
		v.keys.Store(keys)
	case !errors.Is(err, fs.ErrNotExist):
		cfg.Log.Warn("could not read the cached keys of the issuer; they are fetched anew", "error", err)
	}
	return v
}

func (v *Verifier) load() (*keySet, error) {
	info, err := os.Stat(v.cfg.Path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", v.cfg.Path, maxFile)
	}
	data, err := os.ReadFile(v.cfg.Path)
	if err != nil {
		return nil, err
	}
	var kept stored
	if err := json.Unmarshal(data, &kept); err != nil {
		return nil, fmt.Errorf("%s: %w", v.cfg.Path, err)
	}
	if kept.Issuer != v.cfg.Issuer {
		return nil, fmt.Errorf("%s has the keys of %.200q: %w", v.cfg.Path, kept.Issuer, fs.ErrNotExist)
	}
	return parseKeys(kept.Keys, kept.FetchedAt)
}

// Run fetches the keys until ctx ends: at once, at an interval, and when a token names a key that isn't known.
func (v *Verifier) Run(ctx context.Context) error {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next.C:
		case <-v.fetching.wake:
			if !v.due() {
				continue
			}
		}
		pause := refreshInterval
		if !v.fetch(ctx) {
			pause = retryInterval
		}
		next.Reset(pause)
	}
}

// due says whether the last fetch is long enough ago for one more.
func (v *Verifier) due() bool {
	v.fetching.mu.Lock()
	defer v.fetching.mu.Unlock()
	return v.fetching.tried.IsZero() || time.Since(v.fetching.tried) >= minInterval
}

// fetch gets the keys once, and lets those go on who wait for them.
func (v *Verifier) fetch(ctx context.Context) (ok bool) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	keys, err := v.fetchKeys(ctx)
	if err == nil {
		v.keys.Store(keys)
		v.sweep(keys)
	}
	f := &v.fetching
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil && (f.err == nil || f.err.Error() != err.Error()) {
		v.cfg.Log.Warn("could not fetch the keys of the issuer; those from before are used on", "error", err)
	} else if err == nil && f.err != nil {
		v.cfg.Log.Info("the keys of the issuer could be fetched again")
	}
	f.tried, f.err = time.Now(), err
	close(f.done)
	f.done = make(chan struct{})
	return err == nil
}

func (v *Verifier) fetchKeys(ctx context.Context) (*keySet, error) {
	fetched, err := v.cfg.Fetch(ctx)
	if err != nil {
		return nil, err
	}
	if fetched.Issuer != v.cfg.Issuer {
		return nil, fmt.Errorf("egress-proxy has RUMI_OIDC_ISSUER=%q, the gateway %q", fetched.Issuer, v.cfg.Issuer)
	}
	at := time.Now().UTC()
	keys, err := parseKeys(fetched.Keys, at)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(stored{v.cfg.Issuer, at, fetched.Keys})
	if err == nil {
		err = atomicfile.WritePath(v.cfg.Path, data, 0o640)
	}
	if err != nil { // they are good nevertheless, until the next start
		v.cfg.Log.Warn("could not keep the keys of the issuer", "error", err)
	}
	return keys, nil
}

// keysFor returns the keys, those of a fetch if none has the id. nil is for none that may be used.
func (v *Verifier) keysFor(id string) *keySet {
	keys := v.fresh()
	if len(keys.candidates(id)) == 0 {
		v.wait()
		keys = v.fresh()
	}
	return keys
}

// fresh are the keys unless they are too old.
func (v *Verifier) fresh() *keySet {
	keys := v.keys.Load()
	if keys == nil || time.Since(keys.at) > maxAge {
		return nil
	}
	return keys
}

// wait asks for a fetch and waits for its end, unless there was one a moment ago.
func (v *Verifier) wait() {
	if !v.due() {
		return
	}
	v.fetching.mu.Lock()
	done := v.fetching.done
	v.fetching.mu.Unlock()
	select {
	case v.fetching.wake <- struct{}{}:
	default: // it is asked for already
	}
	timeout := time.NewTimer(waitForKeys)
	defer timeout.Stop()
	select {
	case <-done:
	case <-timeout.C:
	}
}

// Ready is nil while the keys are fresh, otherwise an error that says why they aren't.
func (v *Verifier) Ready() error {
	keys := v.keys.Load()
	v.fetching.mu.Lock()
	err := v.fetching.err
	v.fetching.mu.Unlock()
	switch {
	case keys == nil && err != nil:
		return err
	case keys == nil:
		return errNoKeys
	case err != nil && time.Since(keys.at) > staleAfter:
		return fmt.Errorf("%w; the keys of %s are used until %s", err, keys.at.Format(time.RFC3339), keys.at.Add(maxAge).Format(time.RFC3339))
	}
	return nil
}
