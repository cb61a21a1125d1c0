package service

import (
	"context"
	"path/filepath"

	"github.com/rumi-ai/rumi/libs/policy"
)

// OpenPolicy opens the services' copy of the operator's policy and follows it until the stop. While the newest one is not in force the service
// isn't ready. That there is none is an error: the service would allow what the operator has forbidden.
func (rt *Runtime) OpenPolicy() (*policy.Reader, error) {
	reader, err := policy.Open(filepath.Join(rt.UserData, "settings", "policy"), rt.Log, rt.Audit)
	if err != nil {
		return nil, err
	}
	rt.ReadyWhen("policy", func(context.Context) error {
		return WithFix(reader.Ready(), "mend "+policy.Path)
	})
	rt.Go("policy", reader.Follow)
	return reader, nil
}
