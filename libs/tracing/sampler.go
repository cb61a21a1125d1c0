package tracing

import (
	"fmt"
	"strconv"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// samplerOf reads OTEL_TRACES_SAMPLER and its argument (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables). The
// SDK does that, too, but takes its default for what it can't read: an operator who has misspelt the ratio would pay for all spans.
func samplerOf(name, argument string) (sdktrace.Sampler, error) {
	switch name {
	case "", "parentbased_always_on":
		return sdktrace.ParentBased(sdktrace.AlwaysSample()), nil
	case "always_on":
		return sdktrace.AlwaysSample(), nil
	case "always_off":
		return sdktrace.NeverSample(), nil
	case "parentbased_always_off":
		return sdktrace.ParentBased(sdktrace.NeverSample()), nil
	case "traceidratio", "parentbased_traceidratio":
	default:
		return nil, fmt.Errorf("OTEL_TRACES_SAMPLER=%q: want always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off "+
			"or parentbased_traceidratio", name)
	}
	ratio := 1.0
	if argument != "" {
		var err error
		if ratio, err = strconv.ParseFloat(argument, 64); err != nil || !(0 <= ratio && ratio <= 1) {
			return nil, fmt.Errorf("OTEL_TRACES_SAMPLER_ARG=%q: want a number from 0 to 1, such as 0.01", argument)
		}
	}
	if name == "traceidratio" {
		return sdktrace.TraceIDRatioBased(ratio), nil
	}
	return sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio)), nil
}
