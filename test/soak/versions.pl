# Versions come and go under writers and readers for a long time: versions.pl [SECONDS], or SECONDS in the environment.  If this fails, what test/t/40_versions.pl
# tries goes wrong only now and then.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;

$ENV{CQRS_SECONDS} = $ARGV[0] // $ENV{SECONDS} // 60;
do './test/t/40_versions.pl' or die $@ || $!;
