package service

import (
	"encoding"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/rumi-ai/rumi/libs/discovery"
	"github.com/rumi-ai/rumi/libs/spelling"
)

// settings are the settings that every service has. The OTEL_* variables of OpenTelemetry apply, too.
type settings struct {
	Listen      string     `env:"RUMI_LISTEN" envDefault:":8080"`       // the API
	AdminListen string     `env:"RUMI_ADMIN_LISTEN" envDefault:":9090"` // /metrics, /healthz, /readyz
	UserData    string     `env:"RUMI_USER_DATA" envDefault:"/rumi/user_data"`
	IdentityDir string     `env:"RUMI_IDENTITY_DIR"` // default: settings/identity/<service> in the user data
	Peers       string     `env:"RUMI_PEERS"`        // name=host:port,…; see discovery.ParseStatic
	LogLevel    slog.Level `env:"RUMI_LOG_LEVEL" envDefault:"info"`
	DatabaseURL string     `env:"RUMI_DATABASE_URL"`                                    // PostgreSQL; unset is SQLite in the user data
	UID         int        `env:"RUMI_UID" envDefault:"1099"`                           // the user that a process started as root changes to
	GID         int        `env:"RUMI_GID" envDefault:"1099"`                           //
	DockerHost  string     `env:"RUMI_DOCKER_SOCKET" envDefault:"/var/run/docker.sock"` // such a process joins the group of this socket

	directory discovery.Static
}

// prefix is what the names of all our variables begin with.
const prefix = "RUMI_"

// parse fills settings and own, a pointer to the service's configuration, from the environment ("NAME=value" entries). An empty value counts as
// unset. A RUMI_ variable that neither has is an error: otherwise a misspelt name would silently leave the default in force. The error
// names all problems at once.
func parse(service string, environ []string, own any) (settings, error) {
	var common settings
	vars := map[string]string{}
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok && value != "" {
			vars[name] = value
		}
	}
	known := append(names(reflect.TypeFor[settings]()), names(reflect.TypeOf(own).Elem())...)
	var problems []error
	for name := range vars {
		if strings.HasPrefix(name, prefix) && !slices.Contains(known, name) {
			problems = append(problems, fmt.Errorf("%s: %s knows no such setting%s", name, service, spelling.Hint(name, known)))
		}
	}
	options := env.Options{Environment: vars}
	for _, into := range []any{&common, own} {
		if err := env.ParseWithOptions(into, options); err != nil {
			problems = append(problems, readable(err, reflect.TypeOf(into).Elem(), vars)...)
		}
	}
	directory, err := discovery.ParseStatic(common.Peers)
	if err != nil {
		problems = append(problems, fmt.Errorf("RUMI_PEERS: %w", err))
	}
	if len(problems) > 0 {
		return common, fmt.Errorf("read configuration: %w", errors.Join(problems...))
	}
	common.directory = directory
	if common.IdentityDir == "" {
		common.IdentityDir = filepath.Join(common.UserData, "settings", "identity", service)
	}
	return common, nil
}

// readable says of each value that can't be read which variable has it and what is wanted instead. The parser's own errors
// name Go's fields and types.
func readable(err error, config reflect.Type, vars map[string]string) []error {
	var all env.AggregateError
	if !errors.As(err, &all) {
		return []error{err}
	}
	var problems []error
	for _, one := range all.Errors {
		var bad env.ParseError
		if !errors.As(one, &bad) {
			problems = append(problems, one)
			continue
		}
		name := variable(config, bad.Name)
		problems = append(problems, fmt.Errorf("%s=%q: %s", name, vars[name], wanted(bad)))
	}
	return problems
}

// variable is the environment's name of a field.
func variable(t reflect.Type, field string) string {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("env"), ",")
		if f.Name == field && name != "" {
			return name
		}
		if name == "" && f.Type.Kind() == reflect.Struct {
			if name := variable(f.Type, field); name != "" {
				return name
			}
		}
	}
	return ""
}

// wanted describes values of a field's type. A type that reads its text itself says in its error what it wants.
func wanted(bad env.ParseError) string {
	switch {
	case bad.Type == reflect.TypeFor[time.Duration]():
		return "want a time such as 30s or 5m"
	case bad.Type == reflect.TypeFor[slog.Level]():
		return "want debug, info, warn or error"
	case reflect.PointerTo(bad.Type).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return bad.Err.Error()
	case bad.Type.Kind() == reflect.Bool:
		return "want true or false"
	case bad.Type.Kind() == reflect.Float32, bad.Type.Kind() == reflect.Float64:
		return "want a number such as 1 or 0.5"
	}
	return "want a whole number such as 100"
}

// names lists the variables that a configuration struct reads, those of embedded structs included.
func names(t reflect.Type) []string {
	var found []string
	for i := range t.NumField() {
		field := t.Field(i)
		if name, _, _ := strings.Cut(field.Tag.Get("env"), ","); name != "" {
			found = append(found, name)
		} else if field.Type.Kind() == reflect.Struct {
			found = append(found, names(field.Type)...)
		}
	}
	return found
}
