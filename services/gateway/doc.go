// Command gateway is the public HTTP side of the suite, the only service that operators and their programs reach.
//
// It owns the API tokens with their roles and scopes (a database, and user_data/settings/gateway/api_token, which init makes), the rates of
// requests and of failed authentications by address, and the refusal of web pages from elsewhere.
//
// Callers: operators, in plain HTTP on a port that is published on 127.0.0.1 only, or in HTTPS once they have set a certificate. It hands each request to the service that owns the
// path. The table of paths isn't written here: it is made of the endpoints that the services declare in api/. Four endpoints it answers
// itself, from what several services know: health, pending, storage and the view of one pack (api/gateway).
//
// When it dies, nobody can decide anything, and requests under way fail. Packs run on: sockets, gates and grants don't pass through the
// gateway. A service behind it that is down costs its own paths only (503 with Retry-After); a view names what it lacks.
//
// Read the packages in this order:
//
//   - internal/edge: one request, from its first byte to the answer;
//   - internal/route: the owner of a path, and which values a path may hold;
//   - internal/clientaddr: the client's address, also behind proxies;
//   - internal/principal: who makes a request;
//   - internal/token, internal/store: the API tokens;
//   - internal/oidc: people who have signed in at an issuer;
//   - internal/limit, internal/site: what else admits a request;
//   - internal/overview: the views.
package main
