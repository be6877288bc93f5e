package cli

import (
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (a *app) securityGroupCmd() *cobra.Command {
	type sg = *weftv1.SecurityGroup
	cmd := &cobra.Command{Use: "security-group", Aliases: []string{"sg"}, Short: "What may reach ports, and what they may send"}
	cmd.AddCommand(standard(a, noun[sg]{
		kind: client.SecurityGroup, createVerb: "create", createUse: "NAME", createArgs: cobra.ExactArgs(1),
		createComplete: cobra.NoFileCompletions,
		createExample: "  weft security-group create web --description \"public web servers\"\n" +
			"  weft security-group create default",
		create: func(c call, args []string) (sg, error) {
			return &weftv1.SecurityGroup{Name: args[0], Project: c.givenProject()}, nil
		},
		blank: func(id string) sg { return &weftv1.SecurityGroup{Id: id} },
		attrs: []attr[sg]{
			{flag: "name", usage: "new `name`", on: onUpdate, field: "name", set: text(func(g sg, s string) { g.Name = s })},
			{flag: "description", usage: "what it is for, `text`", on: onBoth, field: "description", set: text(func(g sg, s string) { g.Description = s })},
			{flag: "stateless", usage: "judge each packet by itself: answers need rules too", shape: boolean, on: onBoth, field: "stateful", set: flag(func(g sg, b bool) { g.Stateful = proto.Bool(!b) })},
			{flag: "stateful", usage: "let answers pass", shape: boolean, on: onUpdate, field: "stateful", set: flag(func(g sg, b bool) { g.Stateful = proto.Bool(b) })},
		},
		columns: []render.Column{
			{Head: "ID", Path: "id"},
			{Head: "NAME", Path: "name"},
			{Head: "STATEFUL", Path: "stateful"},
			{Head: "DESCRIPTION", Path: "description"},
			{Head: "PROJECT", Path: "project", Wide: true},
			{Head: "CREATED", Path: "create_time", Wide: true},
		},
		projects: true,
	})...)
	cmd.AddCommand(a.ruleCmd())
	return group(cmd)
}

func (a *app) ruleCmd() *cobra.Command {
	type rule = *weftv1.SecurityGroupRule
	n := noun[rule]{
		kind: client.SecurityGroupRule, createVerb: "create", createUse: "SECURITY-GROUP --direction DIRECTION", createArgs: cobra.ExactArgs(1),
		createComplete: a.completeArgs(client.SecurityGroup),
		createExample: "  weft security-group rule create web --direction ingress --protocol tcp --port 80\n" +
			"  weft security-group rule create default --direction ingress --protocol icmp --remote-cidr 192.0.2.0/24\n" +
			"  weft security-group rule create db --direction ingress --protocol tcp --port 5432-5433 --remote-group web",
		create: func(c call, args []string) (rule, error) {
			id, err := c.id(client.SecurityGroup, args[0])
			return &weftv1.SecurityGroupRule{SecurityGroupId: id}, err
		},
		attrs: ruleAttrs(),
		columns: []render.Column{
			{Head: "ID", Path: "id"},
			{Head: "GROUP", Path: "security_group_id", Wide: true},
			{Head: "DIRECTION", Path: "direction"},
			{Head: "FAMILY", Path: "ether_type"},
			{Head: "PROTOCOL", Path: "protocol"},
			{Head: "FROM PORT", Path: "port_min"},
			{Head: "TO PORT", Path: "port_max"},
			{Head: "TYPE", Path: "icmp_type"},
			{Head: "CODE", Path: "icmp_code", Wide: true},
			{Head: "REMOTE CIDR", Path: "remote_cidr"},
			{Head: "REMOTE GROUP", Path: "remote_group_id"},
			{Head: "ADDRESS GROUP", Path: "remote_address_group_id"},
			{Head: "DESCRIPTION", Path: "description", Wide: true},
			{Head: "PROJECT", Path: "project", Wide: true},
			{Head: "CREATED", Path: "create_time", Wide: true},
		},
		filters: []listFilter{
			{flag: "group", usage: "of this security `group`", path: "security_group_id", kind: client.SecurityGroup},
			{flag: "remote-group", usage: "referring to this security `group`", path: "remote_group_id", kind: client.SecurityGroup},
			{flag: "remote-address-group", usage: "referring to this address `group`", path: "remote_address_group_id", kind: client.AddressGroup},
		},
		projects: true,
	}
	cmd := &cobra.Command{Use: "rule", Short: "What a security group allows"}
	cmd.AddCommand(createCmd(a, n), listCmd(a, n), a.showCmd(n.kind), a.deleteCmd(n.kind))
	return group(cmd)
}

func ruleAttrs() []attr[*weftv1.SecurityGroupRule] {
	type rule = *weftv1.SecurityGroupRule
	return []attr[rule]{
		{flag: "direction", usage: "`direction` as the port sees it: ingress or egress", on: onCreate, required: true, choices: []string{"ingress", "egress"}, set: setDirection},
		{flag: "family", usage: "`family` of addresses: ipv4 or ipv6 (default: that of --remote-cidr, else ipv4)", on: onCreate, choices: []string{"ipv4", "ipv6"}, set: setFamily},
		{flag: "protocol", usage: "`protocol` by name (tcp, udp, icmp, ipv6-icmp, sctp, …) or number (default: any)", on: onCreate, set: text(func(r rule, s string) { r.Protocol = s })},
		{flag: "port", usage: "destination port `N` or range MIN-MAX (default: all)", on: onCreate, set: setPorts},
		{flag: "icmp-type", usage: "`type` of icmp and ipv6-icmp (default: all)", on: onCreate, set: number(func(r rule, n uint32) { r.IcmpType = proto.Uint32(n) })},
		{flag: "icmp-code", usage: "`code` of icmp and ipv6-icmp, with a type (default: all)", on: onCreate, set: number(func(r rule, n uint32) { r.IcmpCode = proto.Uint32(n) })},
		{flag: "remote-cidr", usage: "from or to these addresses, `CIDR` or address (default: any)", on: onCreate, set: remote(plain, func(r rule, s string) {
			r.Remote = &weftv1.SecurityGroupRule_RemoteCidr{RemoteCidr: s}
		})},
		{flag: "remote-group", usage: "from or to the ports of this security `group`", on: onCreate, kind: client.SecurityGroup, set: remote(client.SecurityGroup, func(r rule, id string) {
			r.Remote = &weftv1.SecurityGroupRule_RemoteGroupId{RemoteGroupId: id}
		})},
		{flag: "remote-address-group", usage: "from or to the addresses of this address `group`", on: onCreate, kind: client.AddressGroup, set: remote(client.AddressGroup, func(r rule, id string) {
			r.Remote = &weftv1.SecurityGroupRule_RemoteAddressGroupId{RemoteAddressGroupId: id}
		})},
		{flag: "description", usage: "what it is for, `text`", on: onCreate, set: text(func(r rule, s string) { r.Description = s })},
	}
}

func setDirection(_ call, r *weftv1.SecurityGroupRule, v []string) error {
	d, ok := weftv1.Direction_value["DIRECTION_"+strings.ToUpper(v[0])]
	if !ok || d == 0 {
		return usagef("%q is neither ingress nor egress", v[0])
	}
	r.Direction = weftv1.Direction(d)
	return nil
}

func setFamily(_ call, r *weftv1.SecurityGroupRule, v []string) error {
	f, ok := weftv1.EtherType_value["ETHER_TYPE_"+strings.ToUpper(v[0])]
	if !ok || f == 0 {
		return usagef("%q is neither ipv4 nor ipv6", v[0])
	}
	r.EtherType = weftv1.EtherType(f)
	return nil
}

func setPorts(_ call, r *weftv1.SecurityGroupRule, v []string) error {
	first, last, isRange := strings.Cut(v[0], "-")
	if !isRange {
		last = first
	}
	lowest, err := parseNumber(first)
	if err != nil {
		return err
	}
	highest, err := parseNumber(last)
	if err != nil {
		return err
	}
	r.PortMin, r.PortMax = &lowest, &highest
	return nil
}

// plain is the kind of a value that names no object.
const plain client.Kind = ""

// remote makes the setter of whom a rule is about, which may be said once.
func remote(k client.Kind, set func(*weftv1.SecurityGroupRule, string)) func(call, *weftv1.SecurityGroupRule, []string) error {
	to := text(set)
	if k != plain {
		to = reference(k, set)
	}
	return func(c call, r *weftv1.SecurityGroupRule, v []string) error {
		if r.GetRemote() != nil {
			return usagef("give one of --remote-cidr, --remote-group and --remote-address-group")
		}
		return to(c, r, v)
	}
}
