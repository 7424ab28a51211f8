/* The instances of the fast decoder. */
#include "kernels/kern_decode.cuh"
#include "kernels/kern_launch.cuh"

template <unsigned DIM, unsigned BITS, bool BF16> static struct kern_choice choice()
{
	return kern_choice_make(kern_decode_fast<DIM, BITS, BF16>, DECODE_TEAMS, decode_layout<DIM, BITS>::bytes);
}

template <unsigned DIM> static struct kern_choice choice_of_bits(unsigned number)
{
	switch (number) {
	case 0:
		return choice<DIM, 2, false>();
	case 1:
		return choice<DIM, 2, true>();
	case 2:
		return choice<DIM, 4, false>();
	case 3:
		return choice<DIM, 4, true>();
	case 4:
		return choice<DIM, 8, false>();
	default:
		return choice<DIM, 8, true>();
	}
}

struct kern_choice kern_decode_choice(unsigned number)
{
	switch (number / 6) {
	case 0:
		return choice_of_bits<64>(number % 6);
	case 1:
		return choice_of_bits<128>(number % 6);
	default:
		return choice_of_bits<256>(number % 6);
	}
}
