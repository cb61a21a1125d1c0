package dashboards

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/heatmap"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"github.com/grafana/grafana-foundation-sdk/go/units"
)

// The grid of a dashboard has 24 columns: six figures in a line, or three graphs, or two wide ones.
const (
	figureWidth, figureHeight = 4, 4
	graphWidth, graphHeight   = 8, 8
	wide                      = 12
)

// The colours have one meaning each, on all dashboards.
const (
	good    = "green"
	warning = "yellow"
	refused = "orange" // by policy: as it should be, unless there are many
	bad     = "red"
	neutral = "blue"
)

// tag is on every dashboard. The menu of each lists all others by it.
const tag = "rumi"

// source is Prometheus, as deploy/monitoring/grafana/provisioning names it.
var source = common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("prometheus")}

// board begins a dashboard. uid is also the name of its file and a part of its address.
func board(uid, title, about string) *dashboard.DashboardBuilder {
	return dashboard.NewDashboardBuilder(title).
		Uid(uid).
		Description(about).
		Tags([]string{tag}).
		Time("now-1h", "now").
		Refresh("30s").
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Link(dashboard.NewDashboardLinkBuilder("Rumi").
			Type(dashboard.DashboardLinkTypeDashboards).
			Tooltip("All dashboards of Rumi").
			Tags([]string{tag}).
			AsDropdown(true).
			KeepTime(true))
}

// row begins a row with a title.
func row(title string) *dashboard.RowBuilder { return dashboard.NewRowBuilder(title) }

// query is one query of a panel, with the name of its series in the legend.
type query struct{ expr, legend string }

// target is the query as a panel has it.
func (q query) target(i int) *prometheus.DataqueryBuilder {
	return prometheus.NewDataqueryBuilder().
		Datasource(source).
		RefId(string(rune('A' + i))).
		Expr(q.expr).
		LegendFormat(q.legend).
		Exemplar(false).
		Range()
}

// withExemplars is the query as a graph has it. Exemplars are asked for with every histogram: they are the points that lead to traces.
func (q query) withExemplars(i int) *prometheus.DataqueryBuilder {
	return q.target(i).Exemplar(strings.Contains(q.expr, "_bucket"))
}

// lines is a graph of values over time.
func lines(title, about, unit string, queries ...query) *timeseries.PanelBuilder {
	panel := timeseries.NewPanelBuilder().
		Title(title).
		Description(about).
		Datasource(source).
		Unit(unit).
		Min(0).
		Span(graphWidth).
		Height(graphHeight).
		LineWidth(1).
		FillOpacity(10).
		ShowPoints(common.VisibilityModeNever).
		ColorScheme(dashboard.NewFieldColorBuilder().Mode(dashboard.FieldColorModeIdPaletteClassicByName)).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending).HideZeros(true)).
		Legend(common.NewVizLegendOptionsBuilder().ShowLegend(true).DisplayMode(common.LegendDisplayModeTable).
			Placement(common.LegendPlacementBottom).Calcs([]string{"lastNotNull", "max"}).SortBy("Max").SortDesc(true)) // many results and reasons stay at 0
	for i, q := range queries {
		panel.WithTarget(q.withExemplars(i))
	}
	return panel
}

// stacked is a graph of parts of a whole, in the colours of their results.
func stacked(title, about, unit string, queries ...query) *timeseries.PanelBuilder {
	return colourResults(lines(title, about, unit, queries...).
		FillOpacity(40).
		Stacking(common.NewStackingConfigBuilder().Mode(common.StackingModeNormal).Group("A")))
}

// resultColours gives the words that series are named by the colour of what they mean.
var resultColours = []struct{ pattern, colour string }{
	{`/^(ok|allowed|installed|approved|active|running|idle|2xx)\b/`, good},
	{`/^(denied|rejected|refused|blocked|suspended|restarting|modified|4xx)\b/`, refused},
	{`/^(failed|error|stuck|5xx)\b/`, bad},
	{`/^(canceled|pending|waiting|busy|starting|stopped|3xx)\b/`, neutral},
}

// colourResults gives series that are named by a result the colour of that result.
func colourResults(panel *timeseries.PanelBuilder) *timeseries.PanelBuilder {
	for _, r := range resultColours {
		panel.OverrideByRegexp(r.pattern, []dashboard.DynamicConfigValue{
			{Id: "color", Value: map[string]string{"mode": "fixed", "fixedColor": r.colour}},
		})
	}
	return panel
}

// limit draws a line where an alert or an objective is.
func limit(panel *timeseries.PanelBuilder, at float64) *timeseries.PanelBuilder {
	return panel.Thresholds(steps(good, step{at, bad})).
		ThresholdsStyle(common.NewGraphThresholdsStyleConfigBuilder().Mode(common.GraphThresholdsStyleModeDashed))
}

// figure is one number: the newest.
func figure(title, about, unit, expr string) *stat.PanelBuilder {
	return named(title, title, about, unit, expr)
}

// named is a figure whose series has a name of its own.
func named(legend, title, about, unit, expr string) *stat.PanelBuilder {
	return stat.NewPanelBuilder().
		Title(title).
		Description(about).
		Datasource(source).
		Unit(unit).
		Span(figureWidth).
		Height(figureHeight).
		GraphMode(common.BigValueGraphModeArea).
		ColorMode(common.BigValueColorModeValue).
		Orientation(common.VizOrientationAuto).
		ReduceOptions(common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})).
		Thresholds(steps(neutral)).
		WithTarget(query{expr, legend}.target(0))
}

// step is a colour from a value on.
type step struct {
	from   float64
	colour string
}

// steps are thresholds: a colour of the lowest values, and others from values on.
func steps(lowest string, rest ...step) *dashboard.ThresholdsConfigBuilder {
	all := []dashboard.Threshold{{Value: nil, Color: lowest}}
	for _, s := range rest {
		all = append(all, dashboard.Threshold{Value: cog.ToPtr(s.from), Color: s.colour})
	}
	return dashboard.NewThresholdsConfigBuilder().Mode(dashboard.ThresholdsModeAbsolute).Steps(all)
}

// text shows a text in place of a value.
func text(value float64, shown, colour string) []dashboard.ValueMapping {
	return []dashboard.ValueMapping{{ValueMap: &dashboard.ValueMap{Type: dashboard.MappingTypeValueToText, Options: map[string]dashboard.ValueMappingResult{
		fmt.Sprint(value): {Text: &shown, Color: &colour},
	}}}}
}

// heat shows how the durations of a histogram are spread: one column for each moment, darker where more are. selector is in braces, or empty.
func heat(title, about, histogram, selector string) *heatmap.PanelBuilder {
	return heatmap.NewPanelBuilder().
		Title(title).
		Description(about).
		Datasource(source).
		Unit(units.Short).
		Span(graphWidth).
		Height(graphHeight).
		Color(heatmap.NewHeatmapColorOptionsBuilder().Mode(heatmap.HeatmapColorModeScheme).Scheme("Blues").
			Fill("dark-blue").Exponent(0.5).Steps(64)).
		YAxis(heatmap.NewYAxisConfigBuilder().Unit(units.Seconds)).
		Tooltip(heatmap.NewHeatmapTooltipBuilder().Mode(common.TooltipDisplayModeSingle).YHistogram(true)).
		WithTarget(query{rateBy("le", histogram+"_bucket", selector), "{{le}}"}.withExemplars(0).
			Format(prometheus.PromQueryFormatHeatmap))
}

// rate is how much a counter grows each second. selector is in braces, or empty.
func rate(counter, selector string) string {
	return fmt.Sprintf("rate(%s%s[$__rate_interval])", counter, selector)
}

// rateBy is the rate of a counter for each value of labels.
func rateBy(labels, counter, selector string) string {
	return fmt.Sprintf("sum by (%s) (%s)", labels, rate(counter, selector))
}

// quantile is the duration that the share q of a histogram's observations stays below, for each value of the labels in by.
func quantile(q float64, histogram, selector string, by ...string) string {
	return fmt.Sprintf("histogram_quantile(%g, sum by (%s) (%s))", q, strings.Join(append([]string{"le"}, by...), ", "), rate(histogram+"_bucket", selector))
}

// quantiles are the queries of the usual three quantiles.
func quantiles(histogram, selector string) []query {
	var queries []query
	for _, q := range []float64{0.5, 0.95, 0.99} {
		queries = append(queries, query{quantile(q, histogram, selector), fmt.Sprintf("p%g", q*100)})
	}
	return queries
}

// class gives the series of an expression a label class: the first digit of the status code.
func class(expr string) string {
	return fmt.Sprintf(`sum by (class) (label_replace(%s, "class", "$1", "http_response_status_code", "(.).*"))`, expr)
}

// searchTraces is a link to a search for the newest traces of a service.
func searchTraces(service string) *dashboard.DashboardLinkBuilder {
	panes := fmt.Sprintf(`{"a":{"datasource":"jaeger","queries":[{"refId":"A","datasource":{"type":"jaeger","uid":"jaeger"},"queryType":"search","service":%q,"limit":20}],`+
		`"range":{"from":"${__from}","to":"${__to}"}}}`, service)
	// Grafana replaces its variables in the address before it is opened, so they must stay as they are.
	escaped := strings.NewReplacer("%24%7B__from%7D", "${__from}", "%24%7B__to%7D", "${__to}").Replace(url.QueryEscape(panes))
	return dashboard.NewDashboardLinkBuilder("Traces of " + service).
		Type(dashboard.DashboardLinkTypeLink).
		Icon("external link").
		Tooltip("The newest traces of " + service + " in Jaeger").
		Url("/explore?schemaVersion=1&orgId=1&panes=" + escaped)
}
