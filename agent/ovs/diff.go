package ovs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weft-sdn/weft/agent/desired"
)

// Difference is how the database differs from a change.
type Difference struct {
	// Writes is what Ensure would write, Refused what it would refuse.
	Writes, Refused []desired.Difference
	// Unmade are wanted ports that the database has and ovs-vswitchd has not made.
	Unmade []desired.Difference
}

// All lists everything that is not as it should be.
func (d Difference) All() []desired.Difference { return slices.Concat(d.Writes, d.Refused, d.Unmade) }

// Diff tells how the database differs from a change, and writes nothing. ErrDisconnected while there is no connection.
func (c *Client) Diff(ch Change) (Difference, error) {
	_, view, err := c.live()
	if err != nil {
		return Difference{}, err
	}
	return diff(view, ch), nil
}

// diff is pure: it reads the difference off the transaction that would mend it.
func diff(view *Snapshot, ch Change) Difference {
	p := plan(view, ch, nil)
	differ := map[object]bool{}
	for _, o := range p.by {
		differ[o] = true
	}
	reasons := map[object]error{}
	for _, r := range p.refused {
		if !errors.Is(r.Err, ErrNotFound) {
			reasons[object{r.Kind, r.Name}] = r.Err
		}
	}
	var out Difference
	add := func(o object, want, have string) {
		if err := reasons[o]; err != nil {
			out.Refused = append(out.Refused, desired.Difference{Kind: o.kind, Object: o.name, Desired: want, Actual: "refused: " + err.Error()})
		} else if differ[o] {
			out.Writes = append(out.Writes, desired.Difference{Kind: o.kind, Object: o.name, Desired: want, Actual: have})
		}
	}
	for _, b := range ch.Bridges {
		add(bridgeObject(b.Name), fmt.Sprintf("a bridge, datapath_type=%s fail_mode=secure protocols=%s", b.DatapathType, strings.Join(protocols(), ",")), view.bridgeText(b.Name))
	}
	for _, port := range ch.Ports {
		add(portObject(port.Name), portText(port), view.portText(port))
		out.Unmade = append(out.Unmade, view.unmade(port)...)
	}
	for _, name := range slices.Concat(ch.DeletePorts, ch.ClearTags) {
		add(portObject(name), "", view.portText(desired.Port{Name: name, Type: desired.PortForeign}))
	}
	for _, ids := range ch.BridgeIDs {
		if differ[bridgeObject(ids.Bridge)] && len(ids.Set) > 0 {
			out.Writes = append(out.Writes, desired.Difference{Kind: "bridge", Object: ids.Bridge + " external_ids", Desired: mapText(ids.Set)})
		}
	}
	return out
}

func (s *Snapshot) bridgeText(name string) string {
	b := s.Bridges[name]
	if b == nil {
		return ""
	}
	return fmt.Sprintf("a bridge, datapath_type=%s fail_mode=%s protocols=%s", b.DatapathType, b.FailMode, strings.Join(b.Protocols, ","))
}

// portText is a wanted port as text, of a stranger's only what weft sets.
func portText(p desired.Port) string {
	if p.Type == desired.PortForeign {
		return fmt.Sprintf("tag=%d", p.Tag)
	}
	return fmt.Sprintf("on %s, type=%s tag=%d mac=%s options=%s external_ids=%s", p.Bridge, interfaceType(p.Type), p.Tag, p.MAC, mapText(p.Options), mapText(p.ExternalIDs)) + bfdText(p.BFD)
}

// portText is the port that the database has in the place of a wanted one, "" for none.
func (s *Snapshot) portText(want desired.Port) string {
	i, p := s.Interfaces[want.Name], s.Ports[want.Name]
	if want.Type == desired.PortForeign {
		if i != nil {
			p = s.Ports[i.Port]
		}
		if p == nil {
			return ""
		}
		return fmt.Sprintf("tag=%d", p.Tag)
	}
	if p == nil || i == nil {
		return ""
	}
	ids := map[string]string{} // others' keys are their own
	for key := range want.ExternalIDs {
		if value, ok := i.ExternalIDs[key]; ok {
			ids[key] = value
		}
	}
	return fmt.Sprintf("on %s, type=%s tag=%d mac=%s options=%s external_ids=%s", p.Bridge, i.Type, p.Tag, i.MAC, mapText(i.Options), mapText(ids)) + bfdText(i.BFD)
}

// unmade tells that ovs-vswitchd has not made a port that the database has.
func (s *Snapshot) unmade(want desired.Port) []desired.Difference {
	i := s.Interfaces[want.Name]
	if i == nil || i.OFPort != 0 {
		return nil
	}
	d := desired.Difference{Kind: "port", Object: want.Name, Desired: "made by ovs-vswitchd", Actual: "not made"}
	if i.Error != "" {
		d.Actual += ": " + i.Error
	}
	return []desired.Difference{d}
}

// bfdText adds the session that runs over a port, if one does.
func bfdText(bfd map[string]string) string {
	if len(bfd) == 0 {
		return ""
	}
	return " bfd=" + mapText(bfd)
}

func mapText(m map[string]string) string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out = append(out, key+"="+m[key])
	}
	return "{" + strings.Join(out, ",") + "}"
}
