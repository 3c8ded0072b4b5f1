"""How often a text speaks of women, of men, and of the regions of the world: words of short lists, English only.

The counts say what is spoken of, not how. They are for comparing: what was found with what was kept, one corpus with
another. What the lists leave out is part of their meaning. A gendered term is listed where it has a counterpart; `they`
is not, for it is mostly a plural. Of each region its name is listed, and those of ten of its most populous countries
with who lives there; what also means something else (Jordan, Georgia, Chad, Guinea) and what takes two words (South
Africa) is left out. The names of languages are listed, as they are those of people too.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa

from underlay.data.curate.texts import Texts
from underlay.kernels.terms import count_terms, term_table

GENDERED: Final[Mapping[str, str]] = {
    "female": "she her hers herself woman women girl girls female females lady ladies mother mothers mom daughter "
    "daughters sister sisters wife wives aunt aunts grandmother niece queen princess mrs ms",
    "male": "he him his himself man men boy boys male males gentleman gentlemen father fathers dad son sons "
    "brother brothers husband husbands uncle uncles grandfather nephew king prince mr",
}
"""Words in lower case."""
REGIONAL: Final[Mapping[str, str]] = {
    "africa": "Africa African Africans Nigeria Nigerian Nigerians Ethiopia Ethiopian Ethiopians Egypt Egyptian "
    "Egyptians Congo Congolese Tanzania Tanzanian Tanzanians Kenya Kenyan Kenyans Uganda Ugandan Ugandans "
    "Sudan Sudanese Algeria Algerian Algerians Morocco Moroccan Moroccans",
    "asia": "Asia Asian Asians India Indian Indians China Chinese Indonesia Indonesian Indonesians Pakistan "
    "Pakistani Pakistanis Bangladesh Bangladeshi Bangladeshis Japan Japanese Philippines Filipino "
    "Filipinos Vietnam Vietnamese Thailand Thai Korea Korean Koreans",
    "europe": "Europe European Europeans Russia Russian Russians Germany German Germans Britain British England "
    "English France French Italy Italian Italians Spain Spanish Poland Polish Ukraine Ukrainian "
    "Ukrainians Romania Romanian Romanians Netherlands Dutch",
    "latin_america": "Brazil Brazilian Brazilians Mexico Mexican Mexicans Colombia Colombian Colombians Argentina "
    "Argentine Argentinian Peru Peruvian Peruvians Venezuela Venezuelan Venezuelans Chile Chilean "
    "Chileans Guatemala Guatemalan Guatemalans Ecuador Ecuadorian Ecuadorians Bolivia Bolivian Bolivians",
    "middle_east": "Turkey Turkish Iran Iranian Iranians Iraq Iraqi Iraqis Saudi Saudis Yemen Yemeni Yemenis Syria "
    "Syrian Syrians Israel Israeli Israelis Lebanon Lebanese Palestine Palestinian Palestinians Kuwait "
    "Kuwaiti Arabia Arab Arabs Arabic",
    "north_america": "America American Americans USA Canada Canadian Canadians",
    "oceania": "Australia Australian Australians Zealand Zealander Zealanders Fiji Fijian Fijians Samoa Samoan "
    "Samoans Tonga Tongan Tongans Papua Maori",
}
"""Names, which begin with a capital."""


class Terms:
    """Counts them: a column each."""

    def __init__(self) -> None:
        lists = [words.split() for words in (*GENDERED.values(), *REGIONAL.values())]
        self.fields: Mapping[str, pa.DataType] = dict.fromkeys((*GENDERED, *REGIONAL), pa.int32())
        self._keys, self._marks = term_table(lists, [False] * len(GENDERED) + [True] * len(REGIONAL))

    def __call__(self, texts: Texts) -> Mapping[str, Any]:
        """(n,) int32 for each list."""
        counts = np.zeros((len(texts), len(self.fields)), dtype=np.int32)
        count_terms(texts.bytes, texts.offsets, self._keys, self._marks, counts)
        return dict(zip(self.fields, counts.T, strict=True))
