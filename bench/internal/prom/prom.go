// Package prom reads the metrics of a program under test.
package prom

import (
	"context"
	"fmt"
	"net/http"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Metrics by name.
type Metrics map[string]*dto.MetricFamily

// Scrape reads a page of metrics.
func Scrape(ctx context.Context, url string) (Metrics, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", url, response.Status)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	return parser.TextToMetricFamilies(response.Body)
}

// Sum adds up all counters and gauges of a name.
func (m Metrics) Sum(name string) float64 {
	sum := 0.0
	for _, metric := range m[name].GetMetric() {
		sum += metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
	}
	return sum
}

// Quantile of a histogram that has one series, as Prometheus' histogram_quantile makes it: linear
// within a bucket.
func (m Metrics) Quantile(name string, q float64) float64 {
	metrics := m[name].GetMetric()
	if len(metrics) == 0 {
		return 0
	}
	histogram := metrics[0].GetHistogram()
	rank := q * float64(histogram.GetSampleCount())
	lower, before := 0.0, 0.0
	for _, bucket := range histogram.GetBucket() {
		if count := float64(bucket.GetCumulativeCount()); count >= rank && count > before {
			if upper := bucket.GetUpperBound(); upper < 1e300 {
				return lower + (upper-lower)*(rank-before)/(count-before)
			}
			return lower
		}
		lower, before = bucket.GetUpperBound(), float64(bucket.GetCumulativeCount())
	}
	return lower
}
