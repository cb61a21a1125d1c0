package httpapi

import (
	"context"

	api "github.com/rumi-ai/rumi/api/broker"
)

func (c containers) docker(ctx context.Context, _ struct{}) (api.DockerStatusResponse, error) {
	s := c.Engine.Status(ctx)
	answer := api.DockerStatusResponse{Available: s.Available, Required: c.Required, Version: s.Version, APIVersion: s.APIVersion, OS: s.OS, Arch: s.Arch, Image: c.Image,
		Components: s.Components, Kernel: s.Kernel, Runtimes: s.Runtimes, DefaultRuntime: s.DefaultRuntime, Runtime: s.Runtime,
		StorageDriver: s.StorageDriver, CgroupVersion: s.CgroupVersion, CgroupDriver: s.CgroupDriver, LiveRestore: s.LiveRestore,
		Security: api.DockerSecurity{Seccomp: s.Seccomp, AppArmor: s.AppArmor, SELinux: s.SELinux, UserNamespaces: s.UserNamespaces, Rootless: s.Rootless}, Warnings: []api.DockerWarning{}}
	if s.Error != "" {
		answer.Error = &s.Error
	}
	for _, w := range s.Warnings {
		answer.Warnings = append(answer.Warnings, api.DockerWarning(w))
	}
	return answer, nil
}

func (c containers) stats(ctx context.Context, req api.PackRequest) (api.StatsResponse, error) {
	s, err := c.Stats(ctx, req.PackID)
	if err != nil {
		return api.StatsResponse{}, err
	}
	known := func(n int64) *int64 {
		if n == 0 {
			return nil
		}
		return &n
	}
	answer := api.StatsResponse{
		PackID: req.PackID, ID: s.ID, TS: s.Time, StartedAt: s.Started, UptimeSeconds: max(0, s.Time.Sub(s.Started).Seconds()),
		CPU:     api.CPUStats{UsageSeconds: s.CPUTime.Seconds(), ThrottledSeconds: s.ThrottledTime.Seconds()},
		Memory:  api.MemoryStats{UsageBytes: s.Memory, LimitBytes: s.MemoryLimit, PeakBytes: known(s.MemoryPeak)},
		PIDs:    api.PIDStats{Current: s.PIDs, Limit: s.PIDLimit},
		BlockIO: api.BlockStats{ReadBytes: s.BlockRead, WrittenBytes: s.BlockWritten},
	}
	if s.Data != nil {
		answer.Data = &api.DataStats{UsedBytes: s.Data.Bytes, Files: s.Data.Files, LimitBytes: known(c.DataMax)}
	}
	return answer, nil
}
