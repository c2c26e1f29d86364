"""What the Amazon review releases share: names of categories, and how their files are found."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from data_process.preparation import PreparationConfig, add_preparation_flags

CATEGORIES = {  # short names in the literature -> names of the files; other datasets are called as their category
    "Arts": "Arts_Crafts_and_Sewing",
    "Beauty": "All_Beauty",
    "CDs": "CDs_and_Vinyl",
    "Cell": "Cell_Phones_and_Accessories",
    "Clothing": "Clothing_Shoes_and_Jewelry",
    "Food": "Grocery_and_Gourmet_Food",
    "Games": "Video_Games",
    "Home": "Home_and_Kitchen",
    "Instruments": "Musical_Instruments",
    "Kindle": "Kindle_Store",
    "Movies": "Movies_and_TV",
    "Music": "Digital_Music",
    "Office": "Office_Products",
    "Pantry": "Prime_Pantry",
    "Pet": "Pet_Supplies",
    "Scientific": "Industrial_and_Scientific",
    "Sports": "Sports_and_Outdoors",
    "Tools": "Tools_and_Home_Improvement",
    "Toys": "Toys_and_Games",
}


@dataclass(frozen=True, kw_only=True)
class AmazonConfig(PreparationConfig):
    """Which files of the release; None is found by the category's name."""

    category: str | None = None
    interactions_file: Path | None = None
    metadata_file: Path | None = None

    @property
    def file_name(self) -> str:
        return self.category or CATEGORIES.get(self.dataset, self.dataset)


def add_amazon_flags(parser: argparse.ArgumentParser) -> None:
    add_preparation_flags(parser, "folder with the files of the release, or with folders of them")
    parser.add_argument("--category", help="name in the files, such as Video_Games (default: that of the dataset)")
    parser.add_argument("--interactions_file", type=Path, help="ratings or reviews (default: found by the category)")
    parser.add_argument("--metadata_file", type=Path, help="items (default: found by the category)")
