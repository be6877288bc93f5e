package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

// securityAttrs are the flags of a port's filters. Without port security a port has neither groups nor address pairs: they
// go with it.
func securityAttrs() []attr[*weftv1.Port] {
	type port = *weftv1.Port
	const all = "port_security_enabled,security_groups,allowed_address_pairs"
	return []attr[port]{
		{flag: "security-group", usage: "security `group` it is in (default: the project's own); none: no group", shape: repeated, on: onBoth, field: "security_groups", kind: client.SecurityGroup, set: setGroups},
		{flag: "no-port-security", usage: "not filtered: may send from any address, and is in no group", shape: boolean, on: onBoth, field: all, set: flag(func(p port, b bool) { p.PortSecurityEnabled = proto.Bool(!b) })},
		{flag: "port-security", usage: "filtered, even if the network's ports are not", shape: boolean, on: onBoth, field: "port_security_enabled", set: flag(func(p port, b bool) { p.PortSecurityEnabled = proto.Bool(b) })},
		{flag: "allowed-address", usage: "further source `CIDR[=MAC]` that it may use; none: no further", shape: repeated, on: onBoth, field: "allowed_address_pairs", set: elements(parsePair, func(p port, v []*weftv1.AddressPair) { p.AllowedAddressPairs = v })},
		{flag: "vif", usage: "`how` its interface joins the node's switch: ovs (default) or hybrid", on: onCreate, choices: []string{"ovs", "hybrid"}, set: setVif},
	}
}

func setGroups(c call, p *weftv1.Port, refs []string) error {
	p.SecurityGroups = &weftv1.SecurityGroupIds{}
	if len(refs) == 1 && refs[0] == none {
		return nil
	}
	for _, ref := range refs {
		id, err := c.id(client.SecurityGroup, ref)
		if err != nil {
			return err
		}
		p.SecurityGroups.Ids = append(p.SecurityGroups.Ids, id)
	}
	return nil
}

func parsePair(s string) (*weftv1.AddressPair, error) {
	ip, mac, _ := strings.Cut(s, "=")
	return &weftv1.AddressPair{IpAddress: ip, MacAddress: mac}, nil
}

func setVif(_ call, p *weftv1.Port, v []string) error {
	t, ok := weftv1.VifType_value["VIF_TYPE_"+strings.ToUpper(v[0])]
	if !ok || t == 0 {
		return usagef("%q is neither ovs nor hybrid", v[0])
	}
	p.VifType = weftv1.VifType(t)
	return nil
}

// instanceAttrs are the flags of what the VM learns of itself. A change of one leaves the others as they are.
func instanceAttrs() []attr[*weftv1.Port] {
	type instance = *weftv1.Instance
	return []attr[*weftv1.Port]{
		{flag: "hostname", usage: "`name` that its VM is told (default: as DHCP names it)", on: onBoth, field: "instance", set: ofInstance(func(_ call, i instance, v []string) error { i.Hostname = orNone(v[0]); return nil })},
		{flag: "instance-id", usage: "`id` that its VM is told (default: that of --device, else the port's)", on: onBoth, field: "instance", set: ofInstance(func(_ call, i instance, v []string) error { i.Id = orNone(v[0]); return nil })},
		{flag: "public-key", usage: "`file` of public keys that its VM is to trust, as in authorized_keys; none: no key", shape: repeated, on: onBoth, field: "instance", set: ofInstance(setPublicKeys)},
		{flag: "user-data", usage: "`file` that its VM is given, e.g. for cloud-init; -: standard input; none: nothing", on: onBoth, field: "instance", set: ofInstance(setUserData)},
		{flag: "metadata", usage: "`KEY=VALUE` that its VM is given; none: nothing", shape: repeated, on: onBoth, field: "instance", set: ofInstance(setMetadata)},
	}
}

// ofInstance makes the setter of a part of what a VM learns, the rest of which stays as it is stored.
func ofInstance(set func(call, *weftv1.Instance, []string) error) func(call, *weftv1.Port, []string) error {
	return func(c call, p *weftv1.Port, v []string) error {
		if p.GetInstance() == nil {
			p.Instance = &weftv1.Instance{}
			if p.GetId() != "" {
				m, err := c.conn.Get(c, client.Port, p.GetId())
				if err != nil {
					return err
				}
				if stored, ok := m.(*weftv1.Port); ok && stored.GetInstance() != nil {
					p.Instance = stored.GetInstance()
				}
			}
		}
		return set(c, p.GetInstance(), v)
	}
}

func setPublicKeys(c call, i *weftv1.Instance, files []string) error {
	i.PublicKeys = nil
	if len(files) == 1 && files[0] == none {
		return nil
	}
	for _, file := range files {
		text, err := c.contents(file)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				i.PublicKeys = append(i.PublicKeys, line)
			}
		}
	}
	return nil
}

func setUserData(c call, i *weftv1.Instance, v []string) (err error) {
	i.UserData = nil
	if v[0] != none {
		i.UserData, err = c.contents(v[0])
	}
	return err
}

func setMetadata(_ call, i *weftv1.Instance, v []string) error {
	i.Metadata = map[string]string{}
	if slices.Equal(v, []string{none}) {
		return nil
	}
	for _, pair := range v {
		key, value, err := split(pair, "=", "KEY=VALUE")
		if err != nil {
			return usageError{err}
		}
		i.Metadata[key] = value
	}
	return nil
}

// maxContents is more than anything that a VM may be given.
const maxContents = 1 << 20

// contents reads a file, "-" standard input.
func (c call) contents(file string) ([]byte, error) {
	in := c.env.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, usageError{err}
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxContents+1))
	switch {
	case err != nil:
		return nil, usageError{err}
	case len(text) > maxContents:
		return nil, usageError{fmt.Errorf("%s is larger than %d bytes", file, maxContents)}
	default:
		return text, nil
	}
}
