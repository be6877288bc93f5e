package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// parseRows reads the answer of one select of columns name and _version (RFC 7047, 5.2.2): versions by name.
func parseRows(text string) (map[string]string, error) {
	var results []struct {
		Rows []struct {
			Name    string    `json:"name"`
			Version [2]string `json:"_version"` // ["uuid", <version>]
		} `json:"rows"`
		Error string `json:"error"`
	}
	if err := json.Unmarshal([]byte(text), &results); err != nil {
		return nil, fmt.Errorf("%w: %.100s", err, text)
	}
	if len(results) != 1 {
		return nil, fmt.Errorf("%d results, want 1", len(results))
	}
	if results[0].Error != "" {
		return nil, errors.New(results[0].Error)
	}
	out := map[string]string{}
	for _, r := range results[0].Rows {
		out[r.Name] = r.Version[1]
	}
	return out, nil
}

func addressOf(f *weftv1.FloatingIp) (netip.Addr, error) { return netip.ParseAddr(f.GetIpAddress()) }
