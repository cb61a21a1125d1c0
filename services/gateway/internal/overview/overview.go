// Package overview puts together what several services know: what waits for a person, all about one pack, what takes room on the
// disk. It decides nothing. It asks the owners at once and within a bound; what an owner doesn't answer is missing in the
// answer, and named in its errors.
package overview

import (
	"context"
	"sync"
	"time"

	api "github.com/rumi-ai/rumi/api/gateway"
	"github.com/rumi-ai/rumi/libs/fault"
	"github.com/rumi-ai/rumi/libs/route"
	"github.com/rumi-ai/rumi/libs/rpc/client"
)

// timeout bounds a view: well within the gateway's own for a quick call.
const timeout = 8 * time.Second

// Views answers the aggregated endpoints.
type Views struct {
	Peer func(service string) *client.Peer

	UserData string // the gateway's own folder user_data, of which it counts the audit log
}

// sections are the parts of one answer, fetched at once. The functions of add run concurrently.
type sections struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	errors map[string]string // by section, what its owner answered
}

func newSections(ctx context.Context) *sections {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	return &sections{ctx: ctx, cancel: cancel, errors: map[string]string{}}
}

// add runs f, whose error becomes that of the section.
func (s *sections) add(section string, f func(context.Context) error) {
	s.wg.Go(func() {
		if err := f(s.ctx); err != nil {
			s.fail(section, err)
		}
	})
}

func (s *sections) fail(section string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil && fault.Of(err).Kind == fault.KindInternal {
		s.errors[section] = "it did not answer in time"
		return
	}
	s.errors[section] = fault.Of(err).Message
}

// wait waits for all sections and returns the errors.
func (s *sections) wait() map[string]string {
	s.wg.Wait()
	s.cancel()
	return s.errors
}

// get asks the owner of an endpoint. T is the endpoint's response, or what is read of it here.
func get[T, Req, Resp any](ctx context.Context, v *Views, e route.Endpoint[Req, Resp], req Req) (T, error) {
	owner := e.Route().Owner
	return route.CallAs[T](ctx, v.Peer(owner), e, req)
}

// fetch adds a section that is one question.
func fetch[T, Req, Resp any](s *sections, v *Views, section string, e route.Endpoint[Req, Resp], req Req, into *T) {
	s.add(section, func(ctx context.Context) error {
		answer, err := get[T](ctx, v, e, req)
		if err == nil {
			*into = answer
		}
		return err
	})
}

// call is a call of an endpoint, as a view shows it to a person. Where the owner has named nothing, the path keeps the pattern's name.
func call[Req, Resp any](e route.Endpoint[Req, Resp], req Req, body any) api.Call {
	of := e.Route()
	path, err := route.Path(e, req)
	if err != nil {
		path = of.Pattern
	}
	return api.Call{Method: of.Method, Path: path, Body: body}
}
