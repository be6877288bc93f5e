package hybrid

import (
	"strconv"
	"strings"

	"github.com/weft-sdn/weft/proto/model"
)

// ParseProtocols reads /etc/protocols (protocols(5)): the first name of each number.
func ParseProtocols(text string) map[model.Protocol]string {
	out := map[model.Protocol]string{}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, err := strconv.ParseUint(fields[1], 10, 8)
		if _, known := out[model.Protocol(n)]; err == nil && !known { //nolint:gosec // 8 bits
			out[model.Protocol(n)] = fields[0] //nolint:gosec // 8 bits
		}
	}
	return out
}
