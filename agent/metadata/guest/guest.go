// Package guest holds what a VM learns of itself from the metadata service, and writes it as the documents that cloud-init
// and its like ask for: EC2's and OpenStack's. It is pure. Who is asking (agent), how the question arrives and what may be
// asked how often (agent/metadata/proxy) are not its business.
//
// Formats: "Instance metadata" of the Amazon EC2 user guide as far as version 2009-04-04 has it, and the OpenStack
// administration guide of Nova, "Metadata", with network_data.json's schema from Nova's doc/api_schemas. What cloud-init
// reads of them is in its sources/helpers/openstack.py and ec2_utils.py.
package guest

import (
	"net/netip"
	"strings"
)

// Guest is one VM as seen from one of its ports.
type Guest struct {
	Instance  string            `json:"instance"` // id of the VM
	Port      string            `json:"port"`     // UUID, as the next two
	Network   string            `json:"network"`
	Project   string            `json:"project"`
	Hostname  string            `json:"hostname"` // a DNS label
	Domain    string            `json:"domain,omitempty"`
	MAC       string            `json:"mac"`
	MTU       int               `json:"mtu"`
	Addresses []Address         `json:"addresses,omitempty"`
	Keys      []string          `json:"keys,omitempty"` // in authorized_keys form
	UserData  []byte            `json:"user_data,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	// Signature is what a backend knows the instance's id to be vouched for by: HMAC-SHA256 under the secret that it shares
	// with the node, in hexadecimal. "" without a secret.
	Signature string `json:"signature,omitempty"`
}

// Address is one fixed address of the port with what its subnet tells.
type Address struct {
	Prefix  netip.Prefix `json:"prefix"` // the address itself with the subnet's length
	Gateway netip.Addr   `json:"gateway"`
	DNS     []netip.Addr `json:"dns,omitempty"`
	Routes  []Route      `json:"routes,omitempty"`
	DHCP    bool         `json:"dhcp"`
}

// Route is a static route of the subnet.
type Route struct {
	Destination netip.Prefix `json:"destination"`
	Via         netip.Addr   `json:"via"`
}

// FQDN is the hostname with the domain, if there is one.
func (g *Guest) FQDN() string {
	if g.Domain == "" {
		return g.Hostname
	}
	return g.Hostname + "." + g.Domain
}

// Document is an answer.
type Document struct {
	Body []byte
	Type string // a media type
}

// Media types of documents.
const (
	text   = "text/plain; charset=utf-8"
	binary = "application/octet-stream"
	object = "application/json"
)

// leaves are documents by path below a version, without a slash at either end.
type leaves map[string]Document

// Find gives the document of a path, or the list of what lies below it; false when there is neither. Slashes at the end and
// doubled ones mean nothing.
func (g *Guest) Find(path string) (Document, bool) {
	at := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
	switch {
	case len(at) == 0:
		return list(ec2Versions()), true
	case at[0] == "openstack" && len(at) == 1:
		return list(openstackVersions()), true
	case at[0] == "openstack" && known(at[1], openstackVersions()):
		return g.openstack().find(at[2:])
	case known(at[0], ec2Versions()):
		return g.ec2().find(at[1:])
	default:
		return Document{}, false
	}
}

func known(version string, versions []string) bool {
	for _, v := range versions {
		if v == version {
			return true
		}
	}
	return false
}

func list(names []string) Document {
	return Document{Body: []byte(strings.Join(names, "\n")), Type: text}
}

// find is a leaf, or the list of a folder.
func (l leaves) find(at []string) (Document, bool) {
	path := strings.Join(at, "/")
	if d, ok := l[path]; ok {
		return d, true
	}
	names := l.below(path)
	return list(names), len(names) > 0
}
