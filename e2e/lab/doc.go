// Package lab runs a fleet on one machine: simulated hosts, each with its own mounts, network, pids and Open vSwitch,
// the real binaries in them, and switches between them that can be cut. Scenarios, benches and the weft-lab command
// use the same functions. It is for tests and demonstrations on a machine of their own: not a container runtime,
// and no boundary against hostile code.
//
// # Shape
//
// Every host is a tree of processes under a tiny pid 1 (package hostinit). One more such tree, the switch, holds a Linux
// bridge per network: underlay, management, and one per physical network (tenant, ext1, ext2, …). Nothing is added to
// the machine's own network namespace. On each physical external network an outside host stands for the rest of the
// world.
//
// What a lab is lives in /run/weft-lab/<name>: lab.json, and per host its disk, which survives a power-off. So every
// process on the machine can work on a lab by its name, and every function here may be called from several goroutines
// and processes at once.
//
// # Use
//
// A program that brings labs up calls BecomeHost before anything else in main or TestMain: hosts are that program again.
// All functions need root.
package lab
