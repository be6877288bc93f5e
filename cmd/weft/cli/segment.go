package cli

import (
	"github.com/spf13/cobra"

	"github.com/weft-sdn/weft/cmd/weft/cli/client"
	"github.com/weft-sdn/weft/cmd/weft/cli/render"
	weftv1 "github.com/weft-sdn/weft/proto/weft/v1"
)

func (a *app) segmentCmd() *cobra.Command {
	type rng = *weftv1.SegmentRange
	ranges := &cobra.Command{Use: "range", Short: "Pools that networks get their segments from"}
	ranges.AddCommand(standard(a, noun[rng]{
		kind: client.SegmentRange, createVerb: "add", createUse: "[NAME] --type TYPE --range MIN-MAX", createArgs: cobra.MaximumNArgs(1),
		createComplete: cobra.NoFileCompletions,
		createExample: "  weft segment range add tenants --type vlan --physnet tenant --range 1000-1999\n" +
			"  weft segment range add --type vxlan --range 100000-199999",
		create: func(_ call, args []string) (rng, error) {
			r := &weftv1.SegmentRange{}
			if len(args) == 1 {
				r.Name = args[0]
			}
			return r, nil
		},
		blank: func(id string) rng { return &weftv1.SegmentRange{Id: id} },
		attrs: []attr[rng]{
			{flag: "name", usage: "new `name`", on: onUpdate, field: "name", set: text(func(r rng, s string) { r.Name = s })},
			{flag: "type", usage: "`type` of segment: vlan, vxlan or gre", on: onCreate, required: true, choices: []string{"vlan", "vxlan", "gre"}, set: setType(func(r rng, t weftv1.NetworkType) { r.Type = t })},
			{flag: "physnet", usage: "physical `network`, for vlan", on: onCreate, set: text(func(r rng, s string) { r.PhysicalNetwork = s })},
			{flag: "range", usage: "segments `MIN-MAX`, both included", on: onBoth, field: "minimum,maximum", set: setBounds},
			{flag: "min", usage: "first segment `N`, instead of --range", on: onBoth, field: "minimum", set: number(func(r rng, n uint32) { r.Minimum = n })},
			{flag: "max", usage: "last segment `N`, instead of --range", on: onBoth, field: "maximum", set: number(func(r rng, n uint32) { r.Maximum = n })},
		},
		columns: []render.Column{
			{Head: "ID", Path: "id"},
			{Head: "NAME", Path: "name"},
			{Head: "TYPE", Path: "type"},
			{Head: "PHYSNET", Path: "physical_network"},
			{Head: "MIN", Path: "minimum"},
			{Head: "MAX", Path: "maximum"},
			{Head: "USED", Path: "used"},
			{Head: "CREATED", Path: "create_time", Wide: true},
		},
		filters: []listFilter{{flag: "type", usage: "of this `type`", path: "type"}, {flag: "physnet", usage: "on this physical `network`", path: "physical_network"}},
	})...)
	cmd := &cobra.Command{Use: "segment", Short: "Segments: VLANs, VNIs and GRE keys"}
	cmd.AddCommand(group(ranges))
	return group(cmd)
}

func setBounds(_ call, r *weftv1.SegmentRange, v []string) error {
	lo, hi, err := split(v[0], "-", "MIN-MAX")
	if err != nil {
		return usageError{err}
	}
	if r.Minimum, err = parseNumber(lo); err != nil {
		return err
	}
	r.Maximum, err = parseNumber(hi)
	return err
}
