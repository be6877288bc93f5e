package check

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// weftCookie is the first 16 of a cookie's 64 bits in every flow of weft's (docs/pipeline.md).
const weftCookie = "0x7765"

// flow is one flow of weft's as ovs-ofctl(8) prints it, with what it says put into words of the network: ports by name and
// local VLANs by network, so that flows of two hosts can be compared.
type flow struct {
	table    int
	priority int
	match    map[string]string
	actions  []string
}

// readFlows keeps weft's own flows of one bridge.
func (h *host) readFlows(s section) error {
	b := h.bridges[s.name]
	if b == nil {
		return nil // it came or went meanwhile
	}
	for line := range strings.Lines(s.text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "OFPST_FLOW") {
			continue
		}
		f, cookie, err := parseFlow(line)
		if err != nil {
			return fmt.Errorf("flow %q: %w", line, err)
		}
		if len(cookie) == len(weftCookie)+12 && strings.HasPrefix(cookie, weftCookie) {
			b.flows = append(b.flows, f)
		}
	}
	return nil
}

// parseFlow reads `cookie=0x…, table=60, priority=90,dl_vlan=1 actions=pop_vlan,output:4`.
func parseFlow(line string) (f flow, cookie string, err error) {
	head, actions, ok := strings.Cut(line, " actions=")
	if !ok {
		head, actions, ok = strings.Cut(line, "actions=")
	}
	if !ok {
		return f, "", fmt.Errorf("it has no actions")
	}
	f = flow{priority: 32768, match: map[string]string{}, actions: splitActions(actions)} // the default of ovs-ofctl(8)
	for _, term := range strings.FieldsFunc(head, func(r rune) bool { return r == ',' || r == ' ' }) {
		name, value, _ := strings.Cut(term, "=")
		switch name {
		case "cookie":
			cookie = value
		case "table":
			f.table, err = strconv.Atoi(value)
		case "priority":
			f.priority, err = strconv.Atoi(value)
		default:
			f.match[name] = value
		}
		if err != nil {
			return f, "", err
		}
	}
	return f, cookie, nil
}

// splitActions splits at commas that are in no parentheses.
func splitActions(text string) []string {
	var out []string
	depth, start := 0, 0
	for i, r := range text {
		switch {
		case r == '(':
			depth++
		case r == ')':
			depth--
		case r == ',' && depth == 0:
			out = append(out, text[start:i])
			start = i + 1
		}
	}
	return append(out, text[start:])
}

// outputs are the ports that the flow sends to, by OpenFlow number.
func (f flow) outputs() []int {
	var out []int
	for _, a := range f.actions {
		if text, ok := strings.CutPrefix(a, "output:"); ok {
			if n, err := strconv.Atoi(text); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// inPort is the port that the flow is about; 0 when it names none.
func (f flow) inPort() int {
	n, _ := strconv.Atoi(f.match["in_port"]) // no number: none
	return n
}

// words translate what a bridge's flows say.
type words struct {
	names    map[int]string // ports
	networks map[int]string // local VLANs
	policies map[int]string // numbers of policies
}

func (w words) port(text string) string {
	n, err := strconv.Atoi(text)
	if name := w.names[n]; err == nil && name != "" {
		return name
	}
	return text
}

// vlan is the network of a local VLAN, or what stands for one that is nobody's.
func (w words) vlan(n int) string {
	if id := w.networks[n]; id != "" {
		return id
	}
	return fmt.Sprintf("vlan%d", n)
}

// place is where the flow is: table and match. segments tells whether the VLANs matched are those of the wire.
func (w words) place(f flow, segments bool) string {
	terms := []string{fmt.Sprintf("table=%d", f.table)}
	for name, value := range f.match {
		switch {
		case name == "in_port":
			value = w.port(value)
		case name == "dl_vlan" && !segments:
			name, value = "network", w.vlan(number(value))
		case name == "reg5":
			name, value = "zone", w.vlan(number(value))
		case name == "reg6":
			name, value = w.policy(number(value)), ""
		case name == "reg7":
			name, value = "to", w.port(strconv.Itoa(number(value)))
		case name == "dl_dst" && value == "00:00:00:00:00:00/01:00:00:00:00:00":
			name, value = "unicast", ""
		case name == "vlan_tci" && value == "0x0000/0x1fff":
			name, value = "untagged", ""
		case name == "dl_dst" && value == "01:00:00:00:00:00/01:00:00:00:00:00":
			name, value = "group", ""
		case name == "tun_id":
			value = strconv.Itoa(number(value))
		}
		terms = append(terms, strings.TrimSuffix(name+"="+value, "="))
	}
	slices.Sort(terms[1:])
	return strings.Join(terms, ",")
}

// policy is the name of a policy's number.
func (w words) policy(n int) string {
	if name := w.policies[n]; name != "" {
		return name
	}
	return fmt.Sprintf("policy%#x", n)
}

// register is what a register of filters is set to.
func (w words) register(value string) string {
	value, register, _ := strings.Cut(value, "->")
	switch n := number(value); register {
	case "reg4":
		return fmt.Sprintf("place=%d", n)
	case "reg5":
		return "zone=" + w.vlan(n)
	case "reg6":
		return w.policy(n)
	default:
		return "to=" + w.port(strconv.Itoa(n))
	}
}

// does is what the flow does, in order; the ports of outputs follow each other in order of their names.
func (w words) does(f flow, segments bool) string {
	var out []string
	for _, a := range f.actions {
		a = strings.ReplaceAll(a, "zone=NXM_NX_REG5[0..15]", "in zone")
		switch name, value, _ := strings.Cut(a, ":"); {
		case a == "output:NXM_NX_REG7[]":
			out = append(out, "output:to")
		case a == "resubmit(,70)" && len(out) > 0 && strings.HasPrefix(out[len(out)-1], "to="):
			out[len(out)-1] = "output:guarded=" + strings.TrimPrefix(out[len(out)-1], "to=")
		case name == "set_field" && strings.Contains(value, "->reg"):
			out = append(out, w.register(value))
		case name == "output":
			out = append(out, "output:"+w.port(value))
		case name == "set_field" && strings.HasSuffix(value, "->vlan_vid"):
			// The field has the bit that says that there is a tag (OpenFlow 1.5, OFPVID_PRESENT).
			vlan := number(strings.TrimSuffix(value, "->vlan_vid")) &^ 0x1000
			if segments {
				out = append(out, fmt.Sprintf("segment=%d", vlan))
			} else {
				out = append(out, "network="+w.vlan(vlan))
			}
		case name == "set_field" && strings.HasSuffix(value, "->tun_id"):
			out = append(out, fmt.Sprintf("tun_id=%d", number(strings.TrimSuffix(value, "->tun_id"))))
		default:
			out = append(out, a)
		}
	}
	return strings.Join(sortRuns(out), ",")
}

// sortRuns orders outputs that follow each other.
func sortRuns(actions []string) []string {
	output := func(a string) bool { return strings.HasPrefix(a, "output:") }
	for i := 0; i < len(actions); i++ {
		end := i
		for end < len(actions) && output(actions[end]) {
			end++
		}
		slices.Sort(actions[i:end])
		i = max(i, end-1)
	}
	return actions
}

// number reads a decimal or hexadecimal number; 0 for anything else.
func number(text string) int {
	n, _ := strconv.ParseInt(text, 0, 64) // what is none is found when it is compared
	return int(n)
}
