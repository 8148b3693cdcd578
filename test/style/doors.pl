# What may be done in one place only.  If this fails, SPI is used without the checks of base/spi.c, or server versions are told
# apart where nobody would look for it.
use strict;
use warnings;

use lib 'test/style';
use Sources;
use Test::More;

# door => what only it may contain
my %doors = (
	'src/base/spi.c' => qr/^\s*#\s*include\s+"executor\/spi\.h"/m,
	'src/base/compat.h' => qr/\bPG_VERSION_NUM\b/,
	'src/base/names.c' => qr/\bquote_(?:identifier|literal_cstr|qualified_identifier)\s*\(/);

foreach my $door (sort keys %doors)
{
	my @others = grep { $_ ne $door and contents($_) =~ $doors{$door} } c_files();

	is("@others", '', "nobody goes past $door");
}
done_testing();
