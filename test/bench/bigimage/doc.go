// Package bigimage makes the image that pulls are measured with: about 1 GB in
// 25,000 files and six layers of uneven size, one of them big, once in gzip and
// once in zstd. It is made of the programs, libraries and documents of the
// machine, and of random data where those are easier to compress than what images
// hold, so nothing comes from the internet.
//
// Build may be called again after a crash, and by several processes at once: an
// image is made aside, as an OCI image layout, and put in place by one rename. It
// is made once per cache folder, whatever changes on the machine later.
package bigimage
