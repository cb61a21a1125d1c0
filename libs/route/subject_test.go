package route_test

import (
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/rumi-ai/rumi/libs/access"
	"github.com/rumi-ai/rumi/libs/roster"
	"github.com/rumi-ai/rumi/libs/route"
)

type (
	inPath struct {
		PackID string `json:"-" path:"pack_id"`
		Reason string `json:"reason"`
	}
	inKey struct {
		Key string `json:"-" path:"candidate_key"`
	}
	inQuery struct {
		ID string `json:"-" query:"principal_id"`
	}
	inBody struct {
		ID string `json:"principal_id,omitzero"`
	}
	inEmbedded struct {
		inBody
		Reason string `json:"reason"`
	}
	inTwo struct {
		ID    string `json:"-" path:"pack_id"`
		Other string `json:"pack_id"`
	}
)

func TestSubject(t *testing.T) {
	declare := func(pattern string, request reflect.Type) *route.Route {
		r := route.New[struct{}, response]("POST", pattern, roster.Secrets, route.Quick, access.ReadHealth, "Show things").Route()
		r.Request = request
		return &r
	}
	path := declare("/api/things/{pack_id}/x", reflect.TypeFor[inPath]())
	key := declare("/api/keys/{candidate_key}/x", reflect.TypeFor[inKey]())
	query := declare("/api/things", reflect.TypeFor[inQuery]())
	body := declare("/api/things", reflect.TypeFor[inBody]())
	for _, c := range []struct {
		route  *route.Route
		target string
		place  route.Place
		want   string
	}{
		{path, "/api/things/my_pack/x", route.InPath, "my_pack"},
		{path, "/api/things/my%5fpack/x?pack_id=other", route.InPath, "my_pack"},
		{key, "/api/keys/my_pack%3Aslug%3Ah%3Aff/x", route.InPath, "my_pack"},
		{key, "/api/keys/my_pack:other:h:ff/x", route.InPath, "my_pack"},
		{key, "/api/keys/my_pack/x", route.InPath, ""},
		{query, "/api/things?principal_id=a", route.InQuery, "a"},
		{query, "/api/things?principal_id=a&principal_id=b", route.InQuery, ""},
		{query, "/api/things?principal_id=a;x", route.InQuery, ""},
		{query, "/api/things", route.InQuery, ""},
		{body, "/api/things?principal_id=a", route.InBody, ""},
		{declare("/api/things/{pack_id}", reflect.TypeFor[inTwo]()), "/api/things/a", "", ""},
	} {
		subject := c.route.Subject()
		if got := subject.Named(c.route, httptest.NewRequest("POST", c.target, nil)); got != c.want || subject.Place != c.place {
			t.Errorf("%s: got %q in %q, want %q in %q", c.target, got, subject.Place, c.want, c.place)
		}
	}
	if got := body.Subject().InRequest(reflect.ValueOf(inBody{ID: "b"})); got != "b" {
		t.Errorf("in the body: got %q, want b", got)
	}
	embedded := declare("/api/things", reflect.TypeFor[inEmbedded]())
	if got := embedded.Subject().InRequest(reflect.ValueOf(inEmbedded{inBody: inBody{ID: "b"}})); got != "b" {
		t.Errorf("in an embedded part of the body: got %q, want b", got)
	}
	if got := path.Subject().InRequest(reflect.ValueOf(inPath{PackID: "b"})); got != "" {
		t.Errorf("a route with the pack in its path, asked for the body's: got %q, want none", got)
	}
}
