// Package volumes holds the tests of what is mounted into containers, on a real kernel
// and a real berthd: image volumes of images and of artifacts, the options and the
// propagation of mounts, and devices by CDI. Run it as root, after make build.
package volumes
