package deployment

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// monitoring are the services of the profile, with the networks that each needs and what each may write to of the home.
var monitoring = map[string]struct{ networks, writes []string }{
	"grafana":        {[]string{"monitoring", "monitoring-published"}, []string{"/user_data/monitoring/grafana"}},
	"jaeger":         {[]string{"monitoring"}, []string{"/user_data/monitoring/jaeger"}},
	"otel-collector": {[]string{"monitoring", "suite"}, nil},
	"prometheus":     {[]string{"monitoring", "monitoring-published", "suite"}, []string{"/user_data/monitoring/prometheus"}},
}

var pinned = regexp.MustCompile(`^[a-z-]+/[a-z-]+:v?[0-9]+\.[0-9]+\.[0-9]+$`)

// TestMonitoring checks that the profile's services are no more than they must be: TestLeastPrivilege says what holds for all.
func TestMonitoring(t *testing.T) {
	with := composed(t, "monitoring")
	for name, want := range monitoring {
		s, ok := with[name]
		switch networks := slices.Sorted(maps.Keys(s.Networks)); {
		case !ok:
			t.Errorf("docker-compose.yml has no %s with the profile monitoring", name)
			continue
		case !slices.Equal(networks, want.networks):
			t.Errorf("%s is on %v, want %v", name, networks, want.networks)
		}
		if s.User != "1099:1099" || len(s.CapAdd) > 0 || s.MemLimit == "" || s.PidsLimit == 0 || !slices.Equal(s.Profiles, []string{"monitoring"}) {
			t.Errorf("%s is %+v; want the services' user, no capability, limits, and the profile", name, s)
		}
		if !pinned.MatchString(s.Image) {
			t.Errorf("%s is of the image %s, want one of a version", name, s.Image)
		}
		// The collector's image has nothing but the collector, which has no command that asks.
		if (s.Healthcheck == nil) != (name == "otel-collector") {
			t.Errorf("%s: health check %v", name, s.Healthcheck)
		}
		for _, v := range s.Volumes {
			writable := slices.ContainsFunc(want.writes, func(suffix string) bool { return strings.HasSuffix(v.Source, suffix) })
			own := writable || strings.HasSuffix(v.Source, "/user_data/settings/"+name) || strings.Contains(v.Source, "/deploy/monitoring/"+name)
			if v.ReadOnly == writable || !own {
				t.Errorf("%s mounts %s, read-only: %v; want only what is its own, and to write only to %v", name, v.Source, v.ReadOnly, want.writes)
			}
		}
	}
}

// TestMonitoringIsAnExtra checks that nothing of the profile starts without it, and that it gives no service of Rumi another network.
func TestMonitoringIsAnExtra(t *testing.T) {
	without, networks := project(t)
	with, more := project(t, "monitoring")
	for name := range with {
		if _, extra := monitoring[name]; extra {
			if _, ok := without[name]; ok {
				t.Errorf("plain `docker compose up` starts %s, want it only with the profile", name)
			}
			continue
		}
		if got, want := slices.Sorted(maps.Keys(with[name].Networks)), slices.Sorted(maps.Keys(without[name].Networks)); !slices.Equal(got, want) {
			t.Errorf("with the profile %s is on %v, want %v as without it", name, got, want)
		}
		if _, needs := with[name].DependsOn["otel-collector"]; needs {
			t.Errorf("%s waits for the collector, want no service to need it", name)
		}
	}
	for name := range networks {
		if strings.HasPrefix(name, "monitoring") {
			t.Errorf("plain `docker compose up` makes the network %s", name)
		}
	}
	if got := more["monitoring"]; !got.Internal {
		t.Errorf("the network monitoring is %+v, want it internal", got)
	}
	if got := more["monitoring-published"]; got.DriverOpts["com.docker.network.bridge.enable_ip_masquerade"] != "false" {
		t.Errorf("the network monitoring-published is %+v, want it without masquerading, which would lead out", got)
	}
}

// TestMountedFilesExist checks that what docker-compose.yml mounts of the repository is there: Docker would make an empty folder in its place.
func TestMountedFilesExist(t *testing.T) {
	here, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for name, s := range composed(t, "*") {
		for _, v := range s.Volumes {
			if !strings.HasPrefix(v.Source, here+"/deploy/") {
				continue
			}
			found++
			if _, err := os.Stat(v.Source); err != nil {
				t.Errorf("%s mounts %s: %v", name, v.Source, err)
			}
		}
	}
	if found < len(monitoring) {
		t.Errorf("only %d mounts of the repository were found, want %d at least", found, len(monitoring))
	}
}

// dataSources is the file of Grafana's data sources, with the fields that Grafana's documentation lists and we use: an unknown one would be ignored.
type dataSources struct {
	APIVersion  int  `yaml:"apiVersion"`
	Prune       bool `yaml:"prune"`
	DataSources []struct {
		Name, UID, Type, Access, URL string
		IsDefault                    bool `yaml:"isDefault"`
		Editable                     bool
		JSONData                     struct {
			HTTPMethod   string `yaml:"httpMethod"`
			TimeInterval string `yaml:"timeInterval"`
			Exemplars    []struct {
				Name          string
				DataSourceUID string `yaml:"datasourceUid"`
			} `yaml:"exemplarTraceIdDestinations"`
			NodeGraph       struct{ Enabled bool } `yaml:"nodeGraph"`
			TracesToMetrics struct {
				DataSourceUID      string `yaml:"datasourceUid"`
				SpanStartTimeShift string `yaml:"spanStartTimeShift"`
				SpanEndTimeShift   string `yaml:"spanEndTimeShift"`
				Tags               []struct{ Key, Value string }
				Queries            []struct{ Name, Query string }
			} `yaml:"tracesToMetrics"`
		} `yaml:"jsonData"`
	} `yaml:"datasources"`
}

// TestDataSources checks that dashboards and data sources refer to data sources that there are, at hosts and ports of the profile.
func TestDataSources(t *testing.T) {
	const folder = root + "/deploy/monitoring/grafana"
	text, err := os.ReadFile(folder + "/provisioning/datasources/rumi.yml")
	if err != nil {
		t.Fatal(err)
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	decoder.KnownFields(true)
	var file dataSources
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	known, used := map[string]string{}, map[string]bool{}
	for _, d := range file.DataSources {
		known[d.UID] = d.URL
		for _, e := range d.JSONData.Exemplars {
			used[e.DataSourceUID] = true
		}
		if uid := d.JSONData.TracesToMetrics.DataSourceUID; uid != "" {
			used[uid] = true
		}
	}
	paths, err := filepath.Glob(folder + "/dashboards/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("got the dashboards %v, %v; want some", paths, err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`"datasource": \{[^}]*"uid": "([^"]+)"`).FindAllStringSubmatch(string(text), -1) {
			used[match[1]] = true
		}
	}
	want := map[string]string{"prometheus": "http://prometheus:9090", "jaeger": "http://jaeger:16686"}
	if !maps.Equal(known, want) {
		t.Errorf("Grafana has the data sources %v, want %v", known, want)
	}
	for uid := range used {
		if _, ok := known[uid]; !ok {
			t.Errorf("a dashboard or a data source refers to the data source %s, which Grafana hasn't", uid)
		}
	}
	if len(used) < len(known) {
		t.Errorf("only %v are used of %v", used, known)
	}
}
