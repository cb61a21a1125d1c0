package httpapi

import (
	"context"
	"time"
)

type dockerStatus struct {
	Available  bool    `json:"available"`
	Required   bool    `json:"required"` // false in permissive mode
	Version    string  `json:"version"`
	APIVersion string  `json:"api_version"`
	OS         string  `json:"os"`
	Arch       string  `json:"arch"`
	Image      string  `json:"image"` // that packs run in
	Error      *string `json:"error"`

	Components     map[string]string `json:"components"`
	Kernel         string            `json:"kernel"`
	Runtimes       []string          `json:"runtimes"`
	DefaultRuntime string            `json:"default_runtime"`
	Runtime        string            `json:"runtime"` // that containers run in
	StorageDriver  string            `json:"storage_driver"`
	CgroupVersion  string            `json:"cgroup_version"`
	CgroupDriver   string            `json:"cgroup_driver"`
	Security       dockerSecurity    `json:"security"`
	LiveRestore    bool              `json:"live_restore"`
	Warnings       []dockerWarning   `json:"warnings"`
}

type dockerSecurity struct {
	Seccomp        bool `json:"seccomp"`
	AppArmor       bool `json:"apparmor"`
	SELinux        bool `json:"selinux"`
	UserNamespaces bool `json:"userns"`
	Rootless       bool `json:"rootless"`
}

type dockerWarning struct {
	Code         string   `json:"code"`
	Message      string   `json:"message"`
	CVE          string   `json:"cve,omitempty"`
	Component    string   `json:"component,omitempty"`
	Version      string   `json:"version,omitempty"`
	FixedIn      []string `json:"fixed_in,omitempty"`
	MayBePatched bool     `json:"may_be_patched,omitzero"`
}

func (c containers) docker(ctx context.Context, _ struct{}) (dockerStatus, error) {
	s := c.Engine.Status(ctx)
	answer := dockerStatus{Available: s.Available, Required: c.Required, Version: s.Version, APIVersion: s.APIVersion, OS: s.OS, Arch: s.Arch, Image: c.Image,
		Components: s.Components, Kernel: s.Kernel, Runtimes: s.Runtimes, DefaultRuntime: s.DefaultRuntime, Runtime: s.Runtime,
		StorageDriver: s.StorageDriver, CgroupVersion: s.CgroupVersion, CgroupDriver: s.CgroupDriver, LiveRestore: s.LiveRestore,
		Security: dockerSecurity{s.Seccomp, s.AppArmor, s.SELinux, s.UserNamespaces, s.Rootless}, Warnings: []dockerWarning{}}
	if s.Error != "" {
		answer.Error = &s.Error
	}
	for _, w := range s.Warnings {
		answer.Warnings = append(answer.Warnings, dockerWarning(w))
	}
	return answer, nil
}

type statsResponse struct {
	PackID        string      `json:"pack_id"`
	ID            string      `json:"container_id"`
	TS            time.Time   `json:"ts"`
	StartedAt     time.Time   `json:"started_at"`
	UptimeSeconds float64     `json:"uptime_seconds"`
	CPU           cpuStats    `json:"cpu"`
	Memory        memoryStats `json:"memory"`
	PIDs          pidStats    `json:"pids"`
	BlockIO       blockStats  `json:"block_io"`
	Data          *dataStats  `json:"data"`
}

type cpuStats struct {
	UsageSeconds     float64 `json:"usage_seconds"`
	ThrottledSeconds float64 `json:"throttled_seconds"`
}

type memoryStats struct {
	UsageBytes int64  `json:"usage_bytes"`
	LimitBytes int64  `json:"limit_bytes"`
	PeakBytes  *int64 `json:"peak_bytes"` // null where the kernel doesn't tell
}

type pidStats struct {
	Current int64 `json:"current"`
	Limit   int64 `json:"limit"`
}

type blockStats struct {
	ReadBytes    int64 `json:"read_bytes"`
	WrittenBytes int64 `json:"written_bytes"`
}

type dataStats struct {
	UsedBytes  int64  `json:"used_bytes"`
	Files      int64  `json:"files"`
	LimitBytes *int64 `json:"limit_bytes"` // null for none
}

func (c containers) stats(ctx context.Context, req packRequest) (statsResponse, error) {
	s, err := c.Stats(ctx, req.PackID)
	if err != nil {
		return statsResponse{}, err
	}
	known := func(n int64) *int64 {
		if n == 0 {
			return nil
		}
		return &n
	}
	answer := statsResponse{
		PackID: req.PackID, ID: s.ID, TS: s.Time, StartedAt: s.Started, UptimeSeconds: max(0, s.Time.Sub(s.Started).Seconds()),
		CPU:     cpuStats{s.CPUTime.Seconds(), s.ThrottledTime.Seconds()},
		Memory:  memoryStats{s.Memory, s.MemoryLimit, known(s.MemoryPeak)},
		PIDs:    pidStats{s.PIDs, s.PIDLimit},
		BlockIO: blockStats{s.BlockRead, s.BlockWritten},
	}
	if s.Data != nil {
		answer.Data = &dataStats{s.Data.Bytes, s.Data.Files, known(c.DataMax)}
	}
	return answer, nil
}
