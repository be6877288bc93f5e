package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestMedianIsTheMiddleOfTheSortedSamples(t *testing.T) {
	for _, c := range []struct {
		samples []float64
		want    float64
	}{{nil, 0}, {[]float64{7}, 7}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(c.samples); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.samples, got, c.want)
		}
	}
}

func TestAReachIsMetByTheMedianOnItsSide(t *testing.T) {
	for _, c := range []struct {
		figure  figure
		samples []float64
		want    string
	}{
		{figure{Reach: 20}, []float64{19, 20, 90}, "yes"},
		{figure{Reach: 20}, []float64{20.1}, "no"},
		{figure{Reach: 300, AtLeast: true}, []float64{300}, "yes"},
		{figure{Reach: 300, AtLeast: true}, []float64{299}, "no"},
		{figure{Zero: true}, []float64{0, 0}, "yes"},
		{figure{Zero: true}, []float64{1}, "no"},
		{figure{Zero: true}, []float64{0, 0, 4}, "no"},
		{figure{Reach: 20, Every: true}, []float64{19, 20}, "yes"},
		{figure{Reach: 20, Every: true}, []float64{1, 2, 21}, "no"},
		{figure{Reach: 20, Every: true}, nil, "not measured"},
		{figure{}, []float64{1}, ""},
		{figure{Reach: 20}, nil, "not measured"},
		{figure{}, nil, "not measured"},
	} {
		if got := (result{c.figure, c.samples}).met(); got != c.want {
			t.Errorf("%+v with %v: met %q, want %q", c.figure, c.samples, got, c.want)
		}
	}
}

func TestTheTableShowsWhatWasNotMeasuredAsSuch(t *testing.T) {
	var out bytes.Buffer
	table(&out, []result{
		{figure{Name: "fast", Unit: "ms", Reach: 20}, []float64{1, 3, 2}},
		{figure{Name: "failed", Unit: "ms", Reach: 20}, nil},
	})
	squeezed := regexp.MustCompile(` +`).ReplaceAllString(out.String(), " ")
	for _, want := range []string{"| fast | 2 (1-3) ms | 3 | <= 20 ms | yes |", "| failed | - | 0 | <= 20 ms | not measured |"} {
		if !strings.Contains(squeezed, want) {
			t.Errorf("the table lacks %q:\n%s", want, squeezed)
		}
	}
}

func TestTheJSONHoldsEverySample(t *testing.T) {
	path := filepath.Join(t.TempDir(), "figures.json")
	if err := writeJSON(path, []result{{figure{ID: "plug", Unit: "ms", Reach: 20}, []float64{1, 2}}}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		ID      string    `json:"id"`
		Median  float64   `json:"median"`
		Samples []float64 `json:"samples"`
	}
	if err := json.Unmarshal(text, &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 || rows[0].ID != "plug" || rows[0].Median != 1.5 || len(rows[0].Samples) != 2 {
		t.Errorf("read back %+v", rows)
	}
}

func TestEveryFigureHasAnIDOfItsOwnAndSaysWhatItMeasures(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range measurements() {
		for _, f := range m.figures {
			if f.ID == "" || f.Name == "" || f.Unit == "" || f.Between == "" || seen[f.ID] {
				t.Errorf("%s: figure %+v is incomplete or its id is taken", m.name, f)
			}
			seen[f.ID] = true
		}
	}
}

func TestALookFindsWhatWasWrittenSinceTheLast(t *testing.T) {
	begin := time.Unix(100, 0)
	before := aspect{begin, map[string]time.Duration{"kept": time.Second, "again": time.Second, "gone": time.Second}, map[string]string{"Port a": "1", "Port b": "1"}}
	after := aspect{begin.Add(10 * time.Second), map[string]time.Duration{"kept": 11 * time.Second, "again": 3 * time.Second, "new": time.Second}, map[string]string{"Port a": "1", "Port b": "2"}}
	if got := before.written(after); len(got) != 4 {
		t.Errorf("found %q, want again, gone, new and Port b", got)
	}
	if got := before.written(before); len(got) != 0 {
		t.Errorf("found %q where nothing was written", got)
	}
}

func TestParseRowsRefusesAnErrorOfTheDatabase(t *testing.T) {
	got, err := parseRows(`[{"rows":[{"name":"tap1","_version":["uuid","abc"]}]}]`)
	if err != nil || got["tap1"] != "abc" {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{`[{"error":"unknown table"}]`, `[]`, `{`} {
		if _, err := parseRows(bad); err == nil {
			t.Errorf("%s: want an error", bad)
		}
	}
}
