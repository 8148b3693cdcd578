# Handlers fold what eight clients emit for a long time, through crashes: handlers.pl [SECONDS], or SECONDS in the environment.  If this fails, what
# test/t/24_handlers.pl tries goes wrong only now and then.
use strict;
use warnings;

use lib 'test/t';
use CqrsTest;

$ENV{CQRS_SECONDS} = ($ARGV[0] // $ENV{SECONDS} // 60) / 3;
do './test/t/24_handlers.pl' or die $@ || $!;
