package iptables

import (
	"context"
	"fmt"
	"slices"
)

// Rules lists the rules of one of weft's chains in a namespace as they are, each as iptables-save prints it after
// `-A CHAIN `; none when there is no such chain. What is read is remembered, so that an Ensure after it reads nothing.
func (d *Driver) Rules(ctx context.Context, namespace, tableName, chain string) ([]string, error) {
	var rules []string
	err := d.enter(namespace, func() error {
		inode, err := namespaceInode()
		if err != nil {
			return err
		}
		have, ok := d.recall(namespace, inode)
		if !ok {
			have, err = d.observe(ctx)
			err = d.remember(namespace, memory{inode, have}, err)
		}
		if t := have[tableName]; err == nil && t != nil {
			rules = slices.Clone(t.chains[chain])
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s of namespace %s: %w", d.program(), namespace, err)
	}
	return rules, nil
}
