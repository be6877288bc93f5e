package cli

import (
	"github.com/spf13/cobra"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (a *app) addressGroupCmd() *cobra.Command {
	type ag = *weftv1.AddressGroup
	cmd := &cobra.Command{Use: "address-group", Aliases: []string{"ag"}, Short: "Named lists of addresses that rules refer to"}
	cmd.AddCommand(standard(a, noun[ag]{
		kind: client.AddressGroup, createVerb: "create", createUse: "NAME", createArgs: cobra.ExactArgs(1),
		createComplete: cobra.NoFileCompletions,
		createExample:  "  weft address-group create offices --address 192.0.2.0/24 --address 2001:db8:7::/48",
		create: func(c call, args []string) (ag, error) {
			return &weftv1.AddressGroup{Name: args[0], Project: c.givenProject()}, nil
		},
		blank: func(id string) ag { return &weftv1.AddressGroup{Id: id} },
		attrs: []attr[ag]{
			{flag: "name", usage: "new `name`", on: onUpdate, field: "name", set: text(func(g ag, s string) { g.Name = s })},
			{flag: "description", usage: "what it is for, `text`", on: onBoth, field: "description", set: text(func(g ag, s string) { g.Description = s })},
			{flag: "address", usage: "`CIDR` or address, in place of all that there were; none: no address", shape: repeated, on: onBoth, field: "addresses", set: elements(parseText, func(g ag, v []string) { g.Addresses = v })},
		},
		columns: []render.Column{
			{Head: "ID", Path: "id"},
			{Head: "NAME", Path: "name"},
			{Head: "ADDRESSES", Path: "addresses"},
			{Head: "DESCRIPTION", Path: "description"},
			{Head: "PROJECT", Path: "project", Wide: true},
			{Head: "CREATED", Path: "create_time", Wide: true},
		},
		projects: true,
	})...)
	return group(cmd)
}
