// Package engine reads containers from the Docker engine, over its socket and without Docker's client. So a test of the suite's containers shares no
// code with the suite. It only reads.
package engine

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/go-json-experiment/json"
)

// Engine is the engine behind a socket.
type Engine struct{ http http.Client }

// Open returns the engine behind a socket. It sends nothing yet.
func Open(socket string) *Engine {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Engine{http: http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Container is the part of `docker inspect` that concerns a container's confinement.
type Container struct {
	ID    string `json:"Id"`
	Name  string
	State struct {
		Status string
		Pid    int
	}
	Config struct {
		User   string
		Env    []string
		Labels map[string]string
	}
	HostConfig struct {
		NetworkMode    string
		Privileged     bool
		ReadonlyRootfs bool
		CapAdd         []string
		CapDrop        []string
		SecurityOpt    []string
		PidsLimit      int64
		Memory         int64
		MemorySwap     int64
		NanoCpus       int64
		CPUQuota       int64 `json:"CpuQuota"`
		IpcMode        string
		PidMode        string
		UTSMode        string
		UsernsMode     string
		Devices        []any
		GroupAdd       []string
		Tmpfs          map[string]string
		RestartPolicy  struct{ Name string }
	}
	Mounts []Mount
}

// Mount is a folder or file of the host in a container.
type Mount struct {
	Type, Source, Destination string
	RW                        bool
}

// Labelled lists the ids of the containers, running or not, that carry all of the labels ("key=value").
func (e *Engine) Labelled(ctx context.Context, labels ...string) ([]string, error) {
	filters, err := json.Marshal(map[string][]string{"label": labels})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var found []struct {
		ID string `json:"Id"`
	}
	if err := e.get(ctx, "/containers/json?all=true&filters="+url.QueryEscape(string(filters)), &found); err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var ids []string
	for _, c := range found {
		ids = append(ids, c.ID)
	}
	return ids, nil
}

// Inspect returns the container with an id.
func (e *Engine) Inspect(ctx context.Context, id string) (Container, error) {
	var c Container
	if err := e.get(ctx, "/containers/"+url.PathEscape(id)+"/json", &c); err != nil {
		return Container{}, fmt.Errorf("inspect container: %w", err)
	}
	return c, nil
}

func (e *Engine) get(ctx context.Context, path string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+path, nil)
	if err != nil {
		return err
	}
	response, err := e.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the engine answered %d %s", response.StatusCode, data)
	}
	return json.Unmarshal(data, into)
}
