package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
)

// Runner runs a program in a folder and returns what it prints. The error has what it said on standard error.
type Runner func(ctx context.Context, dir string, name string, args ...string) (string, error)

// Exec is the Runner that starts programs.
func Exec(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, lastLines(string(failed.Stderr), 6))
	} else if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return string(out), err
}

// lastLines are the last lines of a text, in one line.
func lastLines(text string, n int) string {
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

// project is a compose project as one version of docker-compose.yml describes it.
type project struct {
	run   Runner
	dir   string   // the folder of the project
	files []string // the compose files; none for those that compose finds itself
	name  string
}

// service is a service of a project, as far as an upgrade looks at it.
type service struct {
	Image       string `json:"image"`
	Restart     string `json:"restart"`
	Healthcheck *struct {
		Test []string `json:"test"`
	} `json:"healthcheck"`
	Profiles []string `json:"profiles"`
}

// lasting says whether the service runs all the time.
func (s service) lasting() bool { return s.Restart != "" && s.Restart != "no" }

func (p project) compose(ctx context.Context, args ...string) (string, error) {
	all := []string{"compose", "--project-directory", p.dir}
	for _, f := range p.files {
		all = append(all, "--file", f)
	}
	if p.name != "" {
		all = append(all, "--project-name", p.name)
	}
	return p.run(ctx, p.dir, "docker", append(all, args...)...)
}

// config reads the services of the project, of all profiles, and its name.
func (p project) config(ctx context.Context) (name string, services map[string]service, err error) {
	out, err := p.compose(ctx, "--profile", "*", "config", "--format", "json")
	if err != nil {
		return "", nil, err
	}
	var c struct {
		Name     string             `json:"name"`
		Services map[string]service `json:"services"`
	}
	if err := json.Unmarshal([]byte(out), &c); err != nil {
		return "", nil, fmt.Errorf("docker compose config: %w", err)
	}
	return c.Name, c.Services, nil
}

// container is a container of a project.
type container struct {
	ID, Service, State, Image string
	Restarts                  int
}

// containers are those of the project that compose made for its services, not those of single commands and not those of packs.
func (p project) containers(ctx context.Context) ([]container, error) {
	out, err := p.run(ctx, p.dir, "docker", "ps", "--all", "--no-trunc", "--filter", "label=com.docker.compose.project="+p.name,
		"--filter", "label=com.docker.compose.oneoff=False", "--format", "{{.ID}}")
	ids := strings.Fields(out)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	out, err = p.run(ctx, p.dir, "docker", append([]string{"inspect", "--format",
		`{{.Id}} {{index .Config.Labels "com.docker.compose.service"}} {{.State.Status}} {{.Image}} {{.RestartCount}}`}, ids...)...)
	if err != nil {
		return nil, err
	}
	var found []container
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) != 5 {
			return nil, fmt.Errorf("docker inspect: unexpected line %q", line)
		}
		restarts, err := strconv.Atoi(f[4])
		if err != nil {
			return nil, fmt.Errorf("docker inspect: %w", err)
		}
		found = append(found, container{f[0], f[1], f[2], f[3], restarts})
	}
	slices.SortFunc(found, func(a, b container) int { return strings.Compare(a.Service, b.Service) })
	return found, nil
}

// operator runs a command of `rumi` in a container of the project, beside the suite, without starting anything else.
func (p project) operator(ctx context.Context, service string, args ...string) (string, error) {
	return p.compose(ctx, append([]string{"run", "--rm", "--no-deps", "-T", service}, args...)...)
}
